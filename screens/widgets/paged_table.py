"""A list of which only the visible rows are drawn; a changed row is one repainted line.

The stock DataTable lays out every row and repaints regions; this one holds rows of spans, follows
its cursor by the row's key when rows come and go, and asks for more when the cursor nears the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from screens.actions import bindings
from screens.text import Line, Span, printable
from screens.widgets.line_view import LineView

#: Rows before the end at which the next page is asked for.
NEAR_END = 20


@dataclass(frozen=True)
class Column:
    """A column; where the screen is narrow, those with the highest ``drop`` leave first."""

    title: str
    width: int
    """Cells; 0 shares what is left by ``weight``."""
    drop: int = 0
    right: bool = False
    weight: int = 1
    least: int = 14
    """Cells that a column without a width needs."""


@dataclass(frozen=True)
class Row:
    """One row: its key, its cells (in the order of the columns) and what it stands for."""

    key: str
    cells: tuple[Span, ...]
    item: Any = None
    sort: tuple[Any, ...] = ()
    """What each column sorts by; the cell's text where it is shorter."""


class PagedTable(LineView):
    """Keys j k g G, enter, space, s; the header stays on top."""

    BINDINGS = bindings("list")

    cursor: reactive[int] = reactive(0, repaint=False)

    @dataclass
    class Moved(Message):
        """Another row is under the cursor (None: the list is empty)."""

        table: PagedTable
        row: Row | None

        @property
        def control(self) -> PagedTable:
            return self.table

    @dataclass
    class Chosen(Message):
        """Enter was pressed on a row."""

        table: PagedTable
        row: Row

        @property
        def control(self) -> PagedTable:
            return self.table

    @dataclass
    class NearEnd(Message):
        """The cursor comes near the last row that is loaded."""

        table: PagedTable

        @property
        def control(self) -> PagedTable:
            return self.table

    def __init__(self, columns: Sequence[Column], *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.rows: list[Row] = []
        self._given: tuple[Row, ...] = ()
        self.marked: set[str] = set()
        self.sorted_by: int | None = None
        self.sort_down = False
        self.mark_glyph = "*"
        self.up_down = ("^", "v")
        self._placing = False
        self._layout: list[tuple[int, int]] = []
        self._layout_width = -1

    # -- rows -------------------------------------------------------------------------------------

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows; only what changed is drawn again, and the cursor keeps its row."""
        given = tuple(rows)
        if given == self._given:
            return
        before, key = self.rows, self.current.key if self.current else None
        self._given = given
        self.rows = self._in_order(given)
        keys = {row.key for row in self.rows}
        self.marked &= keys
        self.resize_to(len(self.rows) + 1)
        if [r.key for r in before] == [r.key for r in self.rows]:
            for number, (old, new) in enumerate(zip(before, self.rows, strict=True)):
                if old.cells != new.cells:
                    self.refresh_line(number + 1)
        else:
            self.refresh()
        self._keep_cursor(key if key in keys else None)

    def _keep_cursor(self, key: str | None) -> None:
        place = self.cursor
        if key is not None:
            place = next(n for n, row in enumerate(self.rows) if row.key == key)
        place = max(0, min(place, len(self.rows) - 1))
        if place != self.cursor:
            self._place(place)
        elif key is None:
            self.post_message(self.Moved(self, self.current))

    def go_to(self, key: str) -> bool:
        """Put the cursor on a row; False where it is not loaded."""
        for number, row in enumerate(self.rows):
            if row.key == key:
                self._place(number)
                return True
        return False

    def _place(self, number: int) -> None:
        """Move the cursor with its row. That asks for no more rows: where a sorted list ends with
        the row under the cursor, each page would ask for the next one until all are loaded.
        """
        self._placing = True
        try:
            self.cursor = number
        finally:
            self._placing = False

    def chosen_rows(self) -> list[Row]:
        """The marked rows, or the one under the cursor."""
        rows = [row for row in self.rows if row.key in self.marked]
        return rows or ([self.current] if self.current else [])

    def _in_order(self, rows: Sequence[Row]) -> list[Row]:
        if self.sorted_by is None:
            return list(rows)
        column = self.sorted_by

        def key(row: Row) -> tuple[bool, bool, Any]:
            value: Any = None  # a short row has nothing in its last columns
            if column < len(row.sort):
                value = row.sort[column]
            elif column < len(row.cells):
                value = row.cells[column][0].lower()
            return (value is None, isinstance(value, str), value if value is not None else 0)

        return sorted(rows, key=key, reverse=self.sort_down)

    # -- actions ----------------------------------------------------------------------------------

    def action_cursor_down(self) -> None:
        self.cursor = min(self.cursor + 1, max(0, len(self.rows) - 1))

    def action_cursor_up(self) -> None:
        self.cursor = max(0, self.cursor - 1)

    def action_cursor_first(self) -> None:
        self.cursor = 0

    def action_cursor_last(self) -> None:
        self.cursor = max(0, len(self.rows) - 1)

    def action_half_down(self) -> None:
        self.cursor = min(self.cursor + max(1, self.size.height // 2), max(0, len(self.rows) - 1))

    def action_half_up(self) -> None:
        self.cursor = max(0, self.cursor - max(1, self.size.height // 2))

    def action_choose(self) -> None:
        if self.current:
            self.post_message(self.Chosen(self, self.current))

    def action_mark(self) -> None:
        if self.current:
            self.marked ^= {self.current.key}
            self.refresh_line(self.cursor + 1)
            self.action_cursor_down()

    def action_sort(self) -> None:
        shown = [index for index, _ in self._columns()]
        following = shown[0] if self.sorted_by not in shown else None
        if following is None:
            place = shown.index(self.sorted_by or 0) + 1
            following = shown[place] if place < len(shown) else None
        self.sort_by(following, down=False)

    def action_sort_reverse(self) -> None:
        if self.sorted_by is not None:
            self.sort_by(self.sorted_by, down=not self.sort_down)

    def sort_by(self, column: int | None, *, down: bool) -> None:
        """Order the rows by a column; None restores the order they came in."""
        self.sorted_by, self.sort_down = column, down
        key = self.current.key if self.current else None
        self.rows = self._in_order(self._given)
        self.refresh()
        if key is not None:
            self.go_to(key)

    def watch_cursor(self, before: int, now: int) -> None:
        self.refresh_line(before + 1)
        self.refresh_line(now + 1)
        top, height = self.scroll_offset.y, max(1, self.size.height - 1)
        if now < top:
            self.scroll_to(y=now, animate=False, immediate=True)
        elif now >= top + height:
            self.scroll_to(y=now - height + 1, animate=False, immediate=True)
        self.post_message(self.Moved(self, self.current))
        if now >= max(before, len(self.rows) - NEAR_END) and not self._placing:
            self.post_message(self.NearEnd(self))

    def on_click(self, event: Any) -> None:
        number = event.y - 1 + self.scroll_offset.y
        if event.y >= 1 and 0 <= number < len(self.rows):
            again = number == self.cursor
            self.cursor = number
            if again:
                self.action_choose()

    # -- drawing ----------------------------------------------------------------------------------

    def on_resize(self) -> None:
        self._layout_width = -1
        self.watch_cursor(self.cursor, self.cursor)

    def render_line(self, y: int) -> Strip:
        if y == 0:
            return self.strip(self._header())
        number = y - 1 + self.scroll_offset.y
        if not 0 <= number < len(self.rows):
            return Strip.blank(self.size.width, self.style_of(""))
        base = "cursor" if number == self.cursor else ""
        return self.strip(self._spans(self.rows[number]), base)

    def refresh_line(self, number: int) -> None:
        y = number - self.scroll_offset.y
        if 1 <= y < self.size.height:
            super().refresh_line(number)

    def _columns(self) -> list[tuple[int, int]]:
        """``(column, width)`` of what fits the view's width."""
        width = self.size.width
        if self._layout_width == width:
            return self._layout
        kept = list(range(len(self.columns)))

        def needed() -> int:
            return 2 + sum((self.columns[i].width or self.columns[i].least) + 1 for i in kept)

        while needed() > width and any(self.columns[i].drop for i in kept):
            kept.remove(max(kept, key=lambda i: (self.columns[i].drop, i)))
        fixed = 2 + sum(self.columns[i].width + 1 for i in kept)
        open_ended = [i for i in kept if not self.columns[i].width]
        weights = sum(self.columns[i].weight for i in open_ended) or 1
        share = max(0, width - fixed) / weights
        self._layout = [
            (i, self.columns[i].width or max(8, int(share * self.columns[i].weight))) for i in kept
        ]
        self._layout_width = width
        return self._layout

    def _header(self) -> Line:
        spans: Line = [("  ", "head")]
        for index, width in self._columns():
            column = self.columns[index]
            title = column.title
            if index == self.sorted_by:
                title += self.up_down[self.sort_down]
            spans.append((_fit(title, width, right=column.right) + " ", "head"))
        return spans

    def _spans(self, row: Row) -> Line:
        mark = self.mark_glyph if row.key in self.marked else " "
        spans: Line = [(mark + " ", "accent")]
        for index, width in self._columns():
            text, style = row.cells[index] if index < len(row.cells) else ("", "")
            spans.append((_fit(text, width, right=self.columns[index].right) + " ", style))
        return spans


def _fit(text: str, width: int, *, right: bool = False) -> str:
    text = printable(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width)
    return " " * (width - length) + text if right else text + " " * (width - length)
