"""Keys that come faster than they are dealt with: typed ahead, pasted, or held up by a slow line.

Textual hands a key to what has the focus *now*, although a key before it may be about to open a
line or a dialog: of ``/7`` typed at once the ``7`` would change the screen instead of filtering.
Here a key waits until the one before it was dealt with.
"""

from __future__ import annotations

import asyncio
from collections import deque

from textual import events
from textual.app import App
from textual.dom import DOMNode
from textual.message_pump import MessagePump

#: How often is looked whether a key whose widget is gone took effect, seconds.
_LOOK_EVERY_S = 0.02
#: After so many seconds the next key goes on in any case.
_LONGEST_S = 0.5


class TypeAhead(App[None]):
    """An app that deals with one key after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._typed: deque[events.Key] = deque()
        self._dealing = 0
        """Number of the key that is being dealt with; 0: none."""
        self._dealt_in_all = 0

    async def on_event(self, event: events.Event) -> None:
        # what no widget wants comes here a second time, forwarded
        if isinstance(event, events.Key) and not event.is_forwarded:
            self._typed.append(event)
            if not self._dealing:
                await self._deal()
            return
        await super().on_event(event)

    async def _deal(self) -> None:
        """Hand out the next key."""
        if not self._typed or self._dealing:
            return
        self._dealt_in_all += 1
        self._dealing = number = self._dealt_in_all
        place = self._place()
        node: MessagePump = self.focused or self.screen
        try:
            await super().on_event(self._typed.popleft())
        finally:
            self._behind(node, number)
            # a queue that closes drops what follows the key (escape closes a dialog)
            self._look_later(number, place, 1)

    def _place(self) -> tuple[DOMNode, DOMNode | None]:
        return self.screen, self.focused

    def _behind(self, node: MessagePump | None, number: int) -> None:
        """Behind a key up the queues it bubbles through: at the top it was dealt with."""
        while node is not None:
            if node.call_later(self._behind, node._parent, number):
                return
            node = node._parent
        self._dealt(number)

    def _look_later(self, number: int, place: tuple[DOMNode, DOMNode | None], times: int) -> None:
        asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look, number, place, times)

    def _look(self, number: int, place: tuple[DOMNode, DOMNode | None], times: int) -> None:
        if number != self._dealing:
            return
        if self._place() != place or times * _LOOK_EVERY_S >= _LONGEST_S:
            self._dealt(number)
        else:
            self._look_later(number, place, times + 1)

    def _dealt(self, number: int) -> None:
        """The next key goes on behind what this one has asked the app for, such as another focus.

        Until then this one counts as being dealt with: a key that comes now waits as well.
        """
        if number == self._dealing:
            self.call_later(self._next, number)

    async def _next(self, number: int) -> None:
        if number == self._dealing:
            self._dealing = 0
            await self._deal()
