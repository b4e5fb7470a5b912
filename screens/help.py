"""Help for the focused thing: what this place is for, and every key that works here."""

from __future__ import annotations

from importlib import resources

from textual.widget import Widget

from screens.actions import ACTIONS, PLACES, shown
from screens.dialogs import TextDialog
from screens.prose import paragraph
from screens.text import Line
from screens.widgets.log_view import LogView
from screens.widgets.paged_table import PagedTable
from screens.widgets.text_pane import TextPane


class HelpDialog(TextDialog):
    """Made from the actions registry and a page of ``assets/help``."""

    def __init__(self, focused: Widget | None, mode: str) -> None:
        super().__init__(
            f"Help: {mode.capitalize()}", lambda width: help_lines(focused, mode, width)
        )


#: Columns of the keys in front of what they do.
_KEYS = 19


def help_lines(focused: Widget | None, mode: str, width: int) -> list[Line]:
    """The page of the screen, then the keys: of the focused thing, the screen, everywhere."""
    lines: list[Line] = []
    room = min(width, 88)
    for text in page(mode).splitlines():
        lines += paragraph(text, room)
    for place in _places(focused, mode):
        lines += [[], [(PLACES[place], "head")]]
        for action in ACTIONS:
            if action.where == place:
                keys = " ".join(shown(key) for key in action.keys.split(","))
                first, *rest = paragraph(action.description, room - _KEYS)
                lines.append([(f"  {keys:<16} ", "key"), *first])
                lines += [[(" " * _KEYS, ""), *line] for line in rest]
    return lines


def page(mode: str) -> str:
    """The help text of a screen."""
    file = resources.files("assets").joinpath("help", f"{mode}.md")
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _places(focused: Widget | None, mode: str) -> list[str]:
    places = []
    if isinstance(focused, LogView):
        places += ["log"]
    if isinstance(focused, TextPane):
        places += ["text"]
    if isinstance(focused, PagedTable):
        places += ["list"]
    return [*places, mode, "panes", "everywhere"]
