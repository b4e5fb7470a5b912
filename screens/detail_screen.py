"""A list over the details of its chosen row: what six of the eight screens are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.message import Message
from textual.timer import Timer

from engine.errors import ModelOpsError
from screens.actions import bindings
from screens.dialogs import error_lines
from screens.frame import WorkScreen
from screens.text import Line
from screens.widgets.paged_table import Column, PagedTable, Row
from screens.widgets.pane_deck import Pane, PaneDeck
from screens.widgets.text_pane import Build, TextPane

#: Seconds between two reads of the details: a held key passes 30 rows a second.
PANE_EVERY = 0.1


@dataclass
class SlowPaneOver(Message):
    """The thread of a slow pane came to its end, wanted or not."""


class DetailScreen(WorkScreen):
    """Subclasses say what the rows are and what stands in a pane; both are made in threads."""

    BINDINGS = bindings("panes")
    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    PANES: ClassVar[tuple[tuple[str, str], ...]] = ()
    SLOW_PANES: ClassVar[frozenset[str]] = frozenset()
    """Panes that take seconds to read: one at a time, so that they never use up all threads."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[Row, ...] = ()
        self.filter_text = ""
        self._loaded = False
        self._pane_timer: Timer | None = None
        self._pane_wanted = False
        self._slow_reads = self._slow_wanted = False

    # -- what a subclass gives --------------------------------------------------------------------

    def fetch(self) -> Sequence[Row]:
        """All rows (called in a thread)."""
        raise NotImplementedError

    def pane_lines(self, pane: str, item: Any) -> Build:
        """What a pane shows of the chosen row's item (called in a thread)."""
        raise NotImplementedError

    def is_slow(self, pane: str, item: Any) -> bool:
        """Whether a pane takes seconds to read for this item."""
        return pane in self.SLOW_PANES

    def empty_lines(self, width: int) -> list[Line]:
        """What is said, and what to do next, when there is nothing."""
        raise NotImplementedError

    # -- frame ------------------------------------------------------------------------------------

    def compose_body(self) -> ComposeResult:
        yield PagedTable(self.COLUMNS, id="list")
        panes = [Pane(name, title, partial(TextPane, id=name)) for name, title in self.PANES]
        yield PaneDeck(panes, id="detail")

    def on_mount(self) -> None:
        self.action_reload()

    def on_screen_resume(self) -> None:
        if self._loaded:
            self.action_reload()

    @property
    def table(self) -> PagedTable:
        return self.query_one("#list", PagedTable)

    @property
    def deck(self) -> PaneDeck:
        return self.query_one(PaneDeck)

    @property
    def item(self) -> Any:
        """What the chosen row stands for, or None."""
        row = self.table.current
        return row.item if row is not None else None

    # -- rows -------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        self.in_thread("list", self.fetch, self._take_rows, self._no_rows)

    def _no_rows(self, error: ModelOpsError) -> bool:
        """What can't be listed says so in the place of the list."""
        self.rows, self._loaded = (), True
        self.add_class("empty")
        self.show_empty(lambda width: error_lines(error, width))
        return True

    def _take_rows(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._loaded = True
        self._show_rows()
        self.load_pane()

    def _matching(self) -> Sequence[Row]:
        """The rows that hold every word of the filter."""
        words = self.filter_text.lower().split()
        return [
            row
            for row in self.rows
            if all(word in " ".join(text for text, _ in row.cells).lower() for word in words)
        ]

    def _show_rows(self) -> None:
        nothing = self._loaded and not self.rows and not self.filter_text
        self.set_class(nothing, "empty")
        if nothing:
            self.show_empty(self.empty_lines)
        self.table.set_rows(self._matching())
        self.show_crumbs()

    def apply_filter(self, text: str) -> None:
        self.filter_text = text
        self._show_rows()

    # -- details ----------------------------------------------------------------------------------

    def on_paged_table_moved(self, event: PagedTable.Moved) -> None:
        self.load_pane()
        self.show_crumbs()

    def on_paged_table_chosen(self) -> None:
        self.deck.widget.focus()

    def on_pane_deck_shown(self) -> None:
        self.call_after_refresh(self.load_pane)
        self.show_crumbs()

    def action_next_pane(self) -> None:
        self.deck.step(1)

    def action_previous_pane(self) -> None:
        self.deck.step(-1)

    def load_pane(self) -> None:
        """Read what the shown pane needs: at once, then at most every ``PANE_EVERY``."""
        if self._pane_timer is not None:
            self._pane_wanted = True
            return
        self._read_pane()
        self._pane_timer = self.set_timer(PANE_EVERY, self._pane_rested)

    def _pane_rested(self) -> None:
        self._pane_timer = None
        if self._pane_wanted:
            self._pane_wanted = False
            self.load_pane()

    def _read_pane(self) -> None:
        """Read it in a thread; an error stands in the pane itself."""
        row, pane = self.table.current, self.deck.current
        if row is None:
            self.show_in(pane, [])
            return
        work = partial(self.pane_lines, pane, row.item)
        if self.is_slow(pane, row.item):
            self.show_in(pane, [[("reading; the first time takes some seconds", "dim")]])
            if self._slow_reads:
                self._slow_wanted = True  # its end reads for the row that is chosen by then
                return
            self._slow_reads = True
            work = partial(self._read_slowly, work)
        key = (row.key, pane)

        def show(build: Build) -> None:
            if self._shown_key() == key:
                self.show_in(pane, build)

        def failed(error: ModelOpsError) -> bool:
            if self._shown_key() == key:
                self.show_in(pane, lambda width: error_lines(error, width))
            return True

        self.in_thread("pane", work, show, failed)

    def _read_slowly(self, work: Callable[[], Build]) -> Build:
        try:
            return work()
        finally:
            self.post_message(SlowPaneOver())

    def on_slow_pane_over(self) -> None:
        self._slow_reads, wanted, self._slow_wanted = False, self._slow_wanted, False
        if wanted:
            self._read_pane()

    def _shown_key(self) -> tuple[str, str] | None:
        row = self.table.current
        return (row.key, self.deck.current) if row is not None else None

    def show_in(self, pane: str, content: Build | list[Line]) -> None:
        """Put lines into a pane that was made already."""
        widget = self.deck.pane(pane)
        if isinstance(widget, TextPane):
            widget.show(content)

    @property
    def counted(self) -> str:
        """How many rows there are, for the breadcrumb."""
        return str(len(self.rows))

    def show_crumbs(self) -> None:
        """Where one is: screen (how many), filter, row, pane."""
        row = self.table.current
        count = f" ({self.counted})" if self._loaded else ""
        self.top_bar.set_crumbs(
            self.heading + count,
            f"/{self.filter_text}" if self.filter_text else "",
            row.cells[0][0] if row else "",
            dict(self.PANES).get(self.deck.current, "") if row else "",
        )

    # -- help for others --------------------------------------------------------------------------

    def palette_ids(self) -> list[tuple[str, str, Callable[[], None]]]:
        return [
            (row.cells[0][0], self.NAME, partial(self._go_to, row.key)) for row in self.rows[:500]
        ]

    def _go_to(self, key: str) -> None:
        self.table.go_to(key)
        self.table.focus()

    def ask_line(self, title: str, hint: str, then: Callable[[str], None], value: str = "") -> None:
        """Ask for one line of text and go on with it; escape drops the matter."""
        from screens.dialogs import LineDialog

        def answered(text: str | None) -> None:
            if text:
                then(text)

        self.app.push_screen(LineDialog(title, hint, value), answered)
