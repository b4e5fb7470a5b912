"""Answers of several models at once: in columns on a terminal, one after the other in a pipe.

All of them are asked at the same moment; what differs is only how they are shown.
"""

from __future__ import annotations

import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from engine.types.serving import ChatPiece
from modelops_tui.cli.output import out, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Below this many columns for each answer they come one after the other.
_NARROW = 30

Ask = Callable[[], Iterator[ChatPiece]]
Arrival = tuple[int, ChatPiece | BaseException | None]


class View(Protocol):
    """Shows pieces of text as they come."""

    def text(self, side: int, text: str) -> None:
        """More of an answer."""
        ...

    def done(self, side: int) -> None:
        """An answer is whole, or failed."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def together(
    asks: Sequence[Ask], names: Sequence[str], view: View, told: Callable[[int, ChatPiece], None]
) -> None:
    """Ask all at once and show what comes.

    Args:
        asks: one for each side; sides of the same name are asked one after the other, since they
            share one process.
        names: the models.
        view: where text goes.
        told: gets every piece that is no text (the exact prompt, the end with its figures).

    Raises:
        ModelOpsError: the first that failed, when all have ended.
    """
    arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
    turns = {name: threading.Lock() for name in names}

    def ask(side: int) -> None:
        try:
            with turns[names[side]]:
                for piece in asks[side]():
                    arrivals.put((side, piece))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            arrivals.put((side, error))
        else:
            arrivals.put((side, None))

    for side in range(len(asks)):
        threading.Thread(target=ask, args=(side,), daemon=True).start()
    failed: BaseException | None = None
    left = len(asks)
    try:
        while left:
            side, piece = arrivals.get()
            if isinstance(piece, ChatPiece):
                if piece.kind == "text":
                    view.text(side, piece.text)
                else:
                    told(side, piece)
                continue
            left -= 1
            failed = failed or piece
            view.done(side)
    finally:
        view.close()
    if failed is not None:
        raise failed


class InTurn:
    """The first answer as it comes; the next gathers meanwhile and follows under its name."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = titles
        self._waiting = [""] * len(titles)
        self._ended = [False] * len(titles)
        self._current = 0
        self._begin()

    def _begin(self) -> None:
        if len(self._titles) > 1:
            out.line(self._titles[self._current])
        out.raw(self._waiting[self._current])

    def text(self, side: int, text: str) -> None:
        """More of an answer."""
        if side == self._current:
            out.raw(printable(text))
        else:
            self._waiting[side] += printable(text)

    def done(self, side: int) -> None:
        """Go on with the next answer when the one that is shown is whole."""
        self._ended[side] = True
        while self._current < len(self._titles) and self._ended[self._current]:
            out.line()
            self._current += 1
            if self._current < len(self._titles):
                self._begin()

    def close(self) -> None:
        """Nothing is left open."""


class Quiet:
    """Shows nothing: the caller writes JSON."""

    def text(self, side: int, text: str) -> None:
        """Nothing."""

    def done(self, side: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Columns:
    """Answers side by side; their ends while they grow, all of them when they are whole."""

    def __init__(self, titles: Sequence[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._titles = titles
        self._texts = [""] * len(titles)
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._live = Live(
            console=self._console, refresh_per_second=12, transient=True, redirect_stderr=False
        )
        self._live.start()

    def text(self, side: int, text: str) -> None:
        """More of an answer."""
        self._texts[side] += printable(text)
        self._live.update(self._table(self._console.height - 3))

    def done(self, side: int) -> None:
        """Nothing: all are drawn again at the end."""

    def close(self) -> None:
        """Write the whole answers where the growing ones stood."""
        self._live.stop()
        self._console.print(self._table(None))

    def _table(self, lines: int | None) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), expand=True, show_edge=False)
        for title in self._titles:
            table.add_column(Text(title), ratio=1, overflow="fold")
        width = self._console.width // len(self._titles) - 2
        table.add_row(*(self._tail(Text(text), width, lines) for text in self._texts))
        return table

    def _tail(self, text: RenderableType, width: int, lines: int | None) -> RenderableType:
        from rich.text import Text

        assert isinstance(text, Text)
        if lines is None:
            return text
        wrapped = text.wrap(self._console, max(width, 1), overflow="fold")
        return Text("\n").join(list(wrapped)[-max(lines, 1) :])


def view_for(titles: Sequence[str]) -> View:
    """Columns on a terminal that is wide enough for several; otherwise one after the other."""
    room = shutil.get_terminal_size().columns // max(len(titles), 1)
    if len(titles) > 1 and sys.stdout.isatty() and room >= _NARROW:
        return Columns(titles)
    return InTurn(titles)
