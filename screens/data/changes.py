"""What changed between two versions: its figures, and the rows of them page by page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Static

from engine.paths import StatePaths
from screens.data.lines import diff_lines
from screens.dialogs import CommandDialog, TextDialog
from screens.text import printable
from screens.widgets.text_pane import TextPane

#: Rows of each kind on a page.
PAGE = 50


@dataclass(frozen=True)
class Question:
    """Which versions are compared, and by which columns."""

    name: str
    old: str
    new: str
    key: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        by = f", by {', '.join(self.key)}" if self.key else ""
        return f"{self.name}: {self.old} -> {self.new}{by}"

    def command(self, offset: int) -> list[str]:
        """Command and options."""
        keys = [word for column in self.key for word in ("--key", column)]
        return ["data", "diff", *keys, "--rows", str(PAGE), "--offset", str(offset)]

    @property
    def arguments(self) -> list[str]:
        """What stands behind the options, and may begin with a dash."""
        return [self.name, self.old, self.new]

    def twin(self, offset: int) -> str:
        """The command that prints the same."""
        return shlex.join(["modelops-tui", *self.command(offset), "--", *self.arguments])


class ChangesDialog(TextDialog):
    """``>`` and ``<`` turn pages, ``y`` shows the command.

    Args:
        question: what was asked.
        found: the first page of the answer, as ``data diff --json`` tells it.
        turn: gets another page: called with its offset and with what takes it.
        paths: where the command is written to.
    """

    BINDINGS = [  # noqa: RUF012
        Binding("greater_than_sign", "turn(1)", "further", id="next-row"),
        Binding("less_than_sign", "turn(-1)", "back", id="previous-row"),
        Binding("y", "show_command", "command", id="show-command"),
    ]

    def __init__(
        self,
        question: Question,
        found: Mapping[str, Any],
        turn: Callable[[int, Callable[[Mapping[str, Any]], None]], None],
        paths: StatePaths,
    ) -> None:
        super().__init__(question.title, partial(diff_lines, found))
        self._question, self._found, self._get, self._paths = question, found, turn, paths
        self._offset = 0

    def compose(self) -> ComposeResult:
        more = "> further   < back   " if self._most > PAGE else ""
        with Vertical(classes="dialog large"):
            yield Static(printable(self._question.title), classes="dialog-title", markup=False)
            yield TextPane(id="dialog-text")
            keys = f"{more}y command   q or esc closes"
            yield Static(keys, classes="dialog-keys", markup=False)

    @property
    def _most(self) -> int:
        """Rows of the kind that has most of them."""
        return max(int(self._found[kind]) for kind in ("added", "removed", "changed"))

    def action_turn(self, by: int) -> None:
        """To another page, where there is one."""
        offset = self._offset + by * PAGE
        if 0 <= offset < self._most:
            self._get(offset, partial(self._show, offset))

    def _show(self, offset: int, found: Mapping[str, Any]) -> None:
        self._found, self._offset = found, offset
        if not self.is_attached:
            return  # closed while the page was read
        pane = self.query_one(TextPane)
        pane.show(partial(diff_lines, found, offset=offset))
        pane.scroll_home(animate=False)

    def action_show_command(self) -> None:
        """The command that prints this page."""
        self.app.push_screen(CommandDialog(self._question.twin(self._offset), self._paths))
