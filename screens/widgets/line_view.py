"""A view of many lines of which only the visible ones are made: under lists, texts and logs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip

from screens.text import Line, printable

if TYPE_CHECKING:
    from rich.style import Style

#: The theme's colour that a style writes with.
_COLOURS = {
    "dim": "secondary",
    "good": "success",
    "bad": "error",
    "warn": "warning",
    "accent": "accent",
    "key": "primary",
    "head": "secondary",
}
_VARIABLES = (*sorted({*_COLOURS.values(), "background", "panel"}),)


@lru_cache(maxsize=256)
def named_style(name: str, colours: tuple[tuple[str, str], ...], ansi: bool, focus: bool) -> Style:
    """The Rich style that one name adds to a line's own.

    Args:
        name: ``dim``, ``good``, ``bad``, ``warn``, ``accent``, ``bold``, ``key``, ``head``,
            ``cursor`` or ``match``.
        colours: the theme's colours by their names in CSS.
        ansi: the terminal's own 16 colours are used.
        focus: the view has the focus.
    """
    from rich.style import Style

    of = {name: Color.parse(colour).rich_color for name, colour in colours}
    default = Color.parse("ansi_default").rich_color
    if name == "bold":
        return Style(bold=True)
    if name == "head":
        return Style(color=of["secondary"], bold=True)
    if name == "dim" and ansi:
        return Style(color=default, dim=True)
    if name == "match":
        return Style(color=of["background"], bgcolor=of["warning"], reverse=ansi or None)
    if name == "cursor" and ansi:
        if focus:
            return Style(color=default, bgcolor=default, reverse=True)
        return Style(bgcolor=default, bold=True)
    if name == "cursor":
        if focus:
            return Style(color=of["background"], bgcolor=of["primary"], bold=True)
        return Style(bgcolor=of["panel"])
    return Style(color=of[_COLOURS[name]])


class LineView(ScrollView, can_focus=True):
    """Subclasses say how many lines there are (``resize_to``) and what stands in one (``line``)."""

    # the styles of spans are no component classes: Textual makes a node of 9 KB for each of those,
    # for each view, and styles all of them again with every change of the focus
    DEFAULT_CSS = """
    LineView {
        width: 1fr; height: 1fr;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1;
    }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self._styles: dict[str, Style] = {}

    # -- what a subclass gives --------------------------------------------------------------------

    def line(self, number: int) -> Line:
        """The spans of one line."""
        raise NotImplementedError

    def base_style(self, number: int) -> str:
        """Name of the style under the whole line (the cursor's), or empty."""
        return ""

    # -- drawing ----------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    def style_of(self, name: str) -> Style:
        """The Rich style of a name; ``a+b`` combines two."""
        style = self._styles.get(name)
        if style is None:
            style = self.rich_style
            for part in name.split("+"):
                if part:
                    style += self._named(part)
            self._styles[name] = style
        return style

    def _named(self, name: str) -> Style:
        variables = self.app.theme_variables
        colours = tuple((key, variables[key]) for key in _VARIABLES)
        return named_style(name, colours, self.app.native_ansi_color, self.has_focus)

    def render_line(self, y: int) -> Strip:
        number = y + self.scroll_offset.y
        width = self.size.width
        if not 0 <= number < self.virtual_size.height:
            return Strip.blank(width, self.style_of(""))
        return self.strip(self.line(number), self.base_style(number), self.scroll_offset.x)

    def strip(self, spans: Line, base: str = "", offset: int = 0) -> Strip:
        """Spans as a strip of exactly the view's width."""
        width = self.size.width
        segments = []
        for text, name in spans:
            # under the cursor one style holds for the line: colours would be unreadable on it
            style = self.style_of(base if base == "cursor" and self.has_focus else f"{base}+{name}")
            segments.append(Segment(printable(text), style))
        whole = Strip(segments)
        return whole.crop_extend(offset, offset + width, self.style_of(base))

    def resize_to(self, lines: int, width: int = 0) -> None:
        """Tell how large the content is, in lines and cells."""
        from textual.geometry import Size

        wanted = Size(width, lines)
        if wanted != self.virtual_size:
            self.virtual_size = wanted

    def refresh_line(self, number: int) -> None:
        """Draw one line again, where it is visible."""
        y = number - self.scroll_offset.y
        if 0 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def on_focus(self) -> None:
        self._styles.clear()

    def on_blur(self) -> None:
        self._styles.clear()

    @staticmethod
    def width_of(spans: Line) -> int:
        """Cells that a line takes."""
        return sum(cell_len(text) for text, _ in spans)
