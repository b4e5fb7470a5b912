"""Thousands of actions over all eight screens on a pty, and what the program holds afterwards.

A pilot sleeps 60 to 90 ms with each key (Textual's ``wait_for_idle`` goes by the wall clock): ten
thousand actions take a quarter of an hour of sleep for two minutes of work. Here the keys come as
fast as the app takes them, as they do from a held key, and the program is the one people start.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.terminal.session import PATIENCE_S, Session

#: Escape in the keyboard protocol of kitty: alone it could be the beginning of anything for 100 ms.
ESC = "\x1b[27u"
_LIST = ["j", "j", "k", "G", "g", "\x04", "\x15", "s", "S", "s", " ", "\t", "\t", "\r", "j", ESC]
_FILTER = ["/", "t", "u", "n", ESC]
_DIALOGS = ["?", ESC, ":", "j", "o", ESC, "y", ESC, "z", "z"]
#: Never a key that changes the store: every round ends as it began.
_ROUNDS = {
    "1": [*_LIST, "a", "a", *_FILTER, *_DIALOGS, "d", ESC, "o", ESC],
    "2": [*_LIST, *_FILTER, *_DIALOGS, "i", "j", "j", "k", ESC, ESC],
    "3": [*_LIST, *_FILTER, *_DIALOGS],
    "4": [*_LIST, "t", "t", "t", "t", "t", "t", "t", "t", "t", "H", "H", *_FILTER, *_DIALOGS],
    "5": [*_LIST, *_DIALOGS],
    "6": ["?", ESC, "\t", "\t", ESC, ":", ESC],
    "7": [*_LIST, *_FILTER, *_DIALOGS],
    "8": [*_LIST, "?", ESC, "\t", "\t"],
}


#: Widgets more than before that are no leak: a filter line that was not asked for yet, a notice.
TOLERANCE = 6


@dataclass(frozen=True)
class Held:
    """What the program holds at one moment."""

    actions: int
    widgets: int
    tasks: int
    memory_mb: float
    """Proportional set size."""
    descriptors: int
    threads: int


def actions() -> Iterator[str]:
    """Keys without an end: one screen after another, then the first again."""
    while True:
        for screen, keys in _ROUNDS.items():
            yield screen
            yield from keys


def round_length() -> int:
    """Actions until all eight screens had their turn."""
    return sum(1 + len(keys) for keys in _ROUNDS.values())


class Soak:
    """One program under keys. ``press`` waits until the app took the key."""

    def __init__(self, root: Path, counts: Path, size: tuple[int, int] = (100, 30)) -> None:
        counts.mkdir(parents=True, exist_ok=True)
        self.counts = counts
        self.pressed = 0
        argv = [sys.executable, str(Path(__file__).with_name("counted_app.py")), str(counts)]
        self.session = Session(argv, {"MODELOPS_HOME": str(root)}, size)

    def press(self, key: str) -> None:
        self.session.press(key)
        self.pressed += 1
        end = time.monotonic() + PATIENCE_S
        while self._taken() < self.pressed:
            if self.session.process.poll() is not None or time.monotonic() > end:
                told = f"{key!r}, key {self.pressed}, was not taken: {self.session.text[-1500:]!r}"
                raise AssertionError(told)
            time.sleep(0.0005)
        # what was drawn is not looked at, and 10,000 actions draw tens of MB
        if len(self.session.output) > 1 << 20:
            del self.session.output[: -(1 << 16)]

    def _taken(self) -> int:
        try:
            return int.from_bytes((self.counts / "keys").read_bytes(), "big")
        except FileNotFoundError:
            return 0

    def held(self) -> Held:
        """Go home, wait until toasts and workers are gone, count."""
        for key in [ESC, ESC, ESC, "1", ESC, ESC]:
            self.press(key)
        end = time.monotonic() + PATIENCE_S
        while True:
            time.sleep(1.0)
            told = self._ask()
            at_home = told["mode"] == "jobs" and told["depth"] == 1
            if (at_home and not told["toasts"]) or time.monotonic() > end:
                break
        assert at_home, f"escape does not lead home: {told}"
        pid = self.session.process.pid
        return Held(
            self.pressed,
            told["widgets"],
            told["tasks"],
            pss_mb(pid),
            len(os.listdir(f"/proc/{pid}/fd")),
            len(os.listdir(f"/proc/{pid}/task")),
        )

    def _ask(self) -> dict[str, Any]:
        path = self.counts / "held.json"
        path.unlink(missing_ok=True)
        self.session.signal(signal.SIGUSR1)
        end = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert time.monotonic() < end, "the program does not answer"
            time.sleep(0.02)
        told: dict[str, Any] = json.loads(path.read_text())
        return told


def pss_mb(pid: int) -> float:
    """Proportional set size in MB: shared library pages count for a share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no Pss in smaps_rollup")


def run(root: Path, counts: Path, count: int, ready: str, looks: int = 4) -> list[Held]:
    """Press ``count`` keys after a first round; what is held then, and at ``looks`` moments."""
    soak = Soak(root, counts)
    with soak.session as session:
        session.wait_for(ready)
        keys = actions()
        for screen in _ROUNDS:
            # panes are made when they are first shown
            for key in [screen, *["\t"] * 9, ESC, ESC]:
                soak.press(key)
        for _ in range(round_length()):
            soak.press(next(keys))
        found = [soak.held()]
        for _ in range(looks):
            for _ in range(count // looks):
                soak.press(next(keys))
            found.append(soak.held())
        mark = session.press("\x11")
        assert session.end() == 0, session.text[mark:]
    return found
