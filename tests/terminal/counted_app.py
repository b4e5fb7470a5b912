"""The workbench as it is started for people, which counts its keys, and on SIGUSR1 what it holds.

``python counted_app.py COUNTS``: a folder into which ``keys`` (8 bytes, the keys that the app took)
and, after a SIGUSR1, ``held.json`` are written. Everything else is the program's own launcher.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from textual import events
from textual.message_pump import MessagePump

import screens.app
from modelops_tui.launch import launch

#: Seconds after which a key counts as dealt with in any case.
LOST_AFTER_S = 0.5


class CountedApp(screens.app.WorkbenchApp):
    """Counts from inside what can't be seen from outside."""

    # relative paths of an app are resolved beside the file of its own class
    CSS_PATH = str(Path(screens.app.__file__).parent / screens.app.WorkbenchApp.CSS_PATH)  # type: ignore[operator]
    counts = Path(sys.argv[1])
    keys_taken = 0
    _keys_begun = 0

    def on_mount(self) -> None:
        # Textual calls the base class's on_mount itself
        self._keys_fd = os.open(self.counts / "keys", os.O_WRONLY | os.O_CREAT, 0o600)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)

    async def on_event(self, event: events.Event) -> None:
        # what no widget wants comes here a second time, forwarded
        key = isinstance(event, events.Key) and not event.is_forwarded
        focused = (self.focused or self.screen) if key else None
        await super().on_event(event)
        if key:
            self._keys_begun += 1
            number = self._keys_begun
            self._follow(focused, number)
            # a queue that closes drops what follows the key (escape closes a dialog)
            asyncio.get_running_loop().call_later(LOST_AFTER_S, self._taken, number)

    def _follow(self, node: MessagePump | None, number: int) -> None:
        """Behind a key up the queues it bubbles through: at the top it was dealt with."""
        while node is not None:
            if node.call_later(self._follow, node._parent, number):
                return
            node = node._parent
        self._taken(number)

    def _taken(self, number: int) -> None:
        """All keys up to this one were dealt with (they come one at a time)."""
        if number > self.keys_taken:
            self.keys_taken = number
            os.pwrite(self._keys_fd, number.to_bytes(8, "big"), 0)

    def _tell(self) -> None:
        held = {
            "widgets": len(self._registry),
            "toasts": len(self._notifications),
            "tasks": len(asyncio.all_tasks()),
            "mode": self.current_mode,
            "depth": len(self.screen_stack),
        }
        temporary = self.counts / "held.new"
        temporary.write_text(json.dumps(held))
        temporary.rename(self.counts / "held.json")


if __name__ == "__main__":
    screens.app.WorkbenchApp = CountedApp  # type: ignore[misc]
    sys.exit(launch())
