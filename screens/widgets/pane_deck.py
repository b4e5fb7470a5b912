"""Panes of which one is shown, with a line of their names; a pane is made when first shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static


@dataclass(frozen=True)
class Pane:
    """One pane: its id, its name and what makes its widget."""

    id: str
    title: str
    make: Callable[[], Widget]


class PaneNames(Static):
    """The line of names; a click on one shows its pane."""

    DEFAULT_CSS = """
    PaneNames { height: 1; width: 1fr; background: $surface; color: $secondary; }
    """


class PaneDeck(Vertical):
    """The screen around it binds ``tab`` to the next pane, wherever the focus is."""

    DEFAULT_CSS = """
    PaneDeck { width: 1fr; height: 1fr; }
    PaneDeck > #pane-body { width: 1fr; height: 1fr; }
    """

    @dataclass
    class Shown(Message):
        """Another pane is shown; ``fresh`` when its widget was made just now."""

        deck: PaneDeck
        pane: str
        fresh: bool

        @property
        def control(self) -> PaneDeck:
            return self.deck

    def __init__(self, panes: Sequence[Pane], *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.panes = tuple(panes)
        self.current = panes[0].id
        self._made: dict[str, Widget] = {}
        self._spans: list[tuple[int, int, str]] = []

    def compose(self) -> ComposeResult:
        yield PaneNames(self._names())
        first = self.panes[0]
        self._made[first.id] = first.make()
        with Container(id="pane-body"):
            yield self._made[first.id]

    def pane(self, pane_id: str) -> Widget | None:
        """The widget of a pane, or None while it was never shown."""
        return self._made.get(pane_id)

    @property
    def widget(self) -> Widget:
        """The widget that is shown."""
        return self._made[self.current]

    def show(self, pane_id: str) -> None:
        """Show a pane; focus moves along where the old one had it."""
        if pane_id == self.current or pane_id not in {pane.id for pane in self.panes}:
            return
        focused = self._made[self.current].has_focus_within
        self._made[self.current].display = False
        fresh = pane_id not in self._made
        if fresh:
            pane = next(p for p in self.panes if p.id == pane_id)
            self._made[pane_id] = pane.make()
            self.query_one("#pane-body").mount(self._made[pane_id])
        self.current = pane_id
        self._made[pane_id].display = True
        self.query_one(PaneNames).update(self._names())
        if focused:
            self._made[pane_id].focus()
        self.post_message(self.Shown(self, pane_id, fresh))

    def step(self, by: int) -> None:
        """Show the pane ``by`` places further, around the ends."""
        ids = [pane.id for pane in self.panes]
        self.show(ids[(ids.index(self.current) + by) % len(ids)])

    def on_click(self, event: object) -> None:
        x, y = getattr(event, "x", -1), getattr(event, "y", -1)
        if y == 0:
            for start, end, pane_id in self._spans:
                if start <= x < end:
                    self.show(pane_id)

    def _names(self) -> Content:
        parts: list[str | tuple[str, str]] = [" "]
        self._spans = []
        place = 1
        for pane in self.panes:
            name = f" {pane.title} "
            chosen = pane.id == self.current
            parts.append((name, "reverse bold" if chosen else ""))
            self._spans.append((place, place + len(name), pane.id))
            place += len(name)
        return Content.assemble(*parts)
