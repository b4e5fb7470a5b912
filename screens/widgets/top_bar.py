"""The line at the top: where one is (the breadcrumb) and how the engine does."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from screens.text import UNICODE, printable


class TopBar(Static):
    """Breadcrumb at the left, the engine at the right; drawn only when one of them changed."""

    DEFAULT_CSS = """
    TopBar { height: 1; width: 1fr; dock: top; background: $panel; color: $foreground; }
    TopBar:ansi { background: ansi_default; }
    """

    def __init__(self, crumbs: Sequence[str] = ()) -> None:
        super().__init__("")
        self._crumbs = tuple(crumbs)
        self._engine = ("", "")
        self._shown: object = None

    def set_crumbs(self, *crumbs: str) -> None:
        """Where one is: screen, thing, part, filter."""
        self._crumbs = tuple(crumb for crumb in crumbs if crumb)
        self._draw()

    def set_engine(self, text: str, style: str) -> None:
        """How the engine does, in a few words."""
        self._engine = (text, style)
        self._draw()

    @property
    def crumbs(self) -> tuple[str, ...]:
        """What the breadcrumb says."""
        return self._crumbs

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        state = (self._crumbs, self._engine, self.size.width)
        if state == self._shown or not self.size.width:
            return
        self._shown = state
        separator = f" {UNICODE.crumb} "
        left = printable(separator.join(self._crumbs))
        engine, style = self._engine
        room = self.size.width - cell_len(engine) - 3
        if cell_len(left) > room:
            left = left[: max(0, room - 1)] + UNICODE.more
        gap = " " * max(1, self.size.width - cell_len(left) - cell_len(engine) - 2)
        self.update(Content.assemble(" ", (left, "bold"), gap, (engine, style), " "))
