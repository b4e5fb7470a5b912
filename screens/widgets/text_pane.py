"""A scrollable text of styled lines, made anew for the width it is shown in; searchable."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.geometry import Size

from screens.actions import bindings
from screens.prose import wrapped
from screens.text import Line
from screens.widgets.line_view import LineView

#: Makes the lines for a width in cells.
Build = Callable[[int], list[Line]]


class TextPane(LineView):
    """Give it lines, or a function that makes them for a width."""

    BINDINGS = bindings("text")
    ALLOW_SELECT: ClassVar[bool] = False

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self._build: Build = lambda width: []
        self._raw: list[Line] = []
        self._lines: list[Line] = []
        self._made_for = -1
        self._size_made_for = Size(-1, -1)
        self.wrapping = False
        self.pattern = ""
        self.found = -1

    def show(self, content: Build | list[Line]) -> None:
        """Replace the content; nothing is drawn when it is the same."""
        build: Build = content if callable(content) else (lambda width: content)
        self._build = build
        if self.size.width:
            self._make()

    def on_resize(self) -> None:
        self.resized()

    def resized(self) -> None:
        """The width may have changed. (Textual calls ``on_resize`` of every class.)"""
        if self.size != self._size_made_for:
            self._make()

    def _make(self) -> None:
        self._size_made_for = self.size
        width = self.size.width
        raw = self._build(width)
        if len(raw) > self.size.height or self._folds(raw, width) > self.size.height:
            # the scroll bar lies over the last column
            width -= self.styles.scrollbar_size_vertical
            raw = self._build(width)
        before, same_width = self._raw, self._made_for == width
        if raw == before and same_width:
            return
        self._raw, self._made_for = raw, width
        if self.wrapping or not same_width or len(raw) != len(before):
            self._place()
            return
        self._lines = raw
        self.resize_to(len(raw), max(map(self.width_of, raw), default=0))
        for number, (old, new) in enumerate(zip(before, raw, strict=True)):
            if old != new:
                self.refresh_line(number)

    def _folds(self, raw: list[Line], width: int) -> int:
        """Lines it takes at that width."""
        return sum(len(wrapped(line, width)) for line in raw) if self.wrapping else len(raw)

    def _place(self) -> None:
        lines = [part for line in self._raw for part in wrapped(line, self._made_for)]
        self._lines = lines if self.wrapping else self._raw
        widest = max((self.width_of(line) for line in self._lines), default=0)
        self.resize_to(len(self._lines), widest)
        self.refresh()

    def line(self, number: int) -> Line:
        return self._lines[number] if number < len(self._lines) else []

    def base_style(self, number: int) -> str:
        return "match" if number == self.found else ""

    @property
    def text(self) -> str:
        """Everything as plain text."""
        return "\n".join("".join(text for text, _ in line) for line in self._raw)

    # -- actions ----------------------------------------------------------------------------------

    def action_scroll_line_down(self) -> None:
        self.scroll_relative(y=1, animate=False)

    def action_scroll_line_up(self) -> None:
        self.scroll_relative(y=-1, animate=False)

    def action_scroll_line_left(self) -> None:
        self.scroll_relative(x=-8, animate=False)

    def action_scroll_line_right(self) -> None:
        self.scroll_relative(x=8, animate=False)

    def action_scroll_top(self) -> None:
        self.scroll_to(y=0, animate=False)

    def action_scroll_bottom(self) -> None:
        self.scroll_to(y=self.virtual_size.height, animate=False)

    def action_scroll_half_down(self) -> None:
        self.scroll_relative(y=max(1, self.size.height // 2), animate=False)

    def action_scroll_half_up(self) -> None:
        self.scroll_relative(y=-max(1, self.size.height // 2), animate=False)

    def action_wrap(self) -> None:
        self.wrapping = not self.wrapping
        self._place()

    def action_find_next(self) -> None:
        self.find(1)

    def action_find_previous(self) -> None:
        self.find(-1)

    def search(self, pattern: str) -> bool:
        """Go to the first line that contains ``pattern`` (any case); False where there is none."""
        self.pattern = pattern
        self.found = -1
        return not pattern or self.find(1)

    def find(self, step: int) -> bool:
        """Go to the next (or, with -1, the previous) line with the pattern, around the ends."""
        count = len(self._lines)
        wanted = self.pattern.lower()
        if not wanted or not count:
            return False
        start = self.found if self.found >= 0 else (-1 if step > 0 else 0)
        for distance in range(1, count + 1):
            number = (start + step * distance) % count
            if wanted in "".join(text for text, _ in self._lines[number]).lower():
                self._go_to(number)
                return True
        self.app.notify(f"no line contains {self.pattern!r}", severity="warning", markup=False)
        return False

    def _go_to(self, number: int) -> None:
        before, self.found = self.found, number
        self.scroll_to(y=max(0, number - self.size.height // 2), animate=False, immediate=True)
        self.refresh_line(before)
        self.refresh_line(number)
