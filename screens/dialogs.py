"""Dialogs: confirm what can't be undone by naming it, ask for a line, choose from a list."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from screens.prose import paragraph
from screens.text import Line, printable
from screens.widgets.paged_table import Column, PagedTable, Row
from screens.widgets.text_pane import Build, TextPane


class ConfirmDialog(ModalScreen[bool]):
    """``y`` does it, everything else does not."""

    BINDINGS = [  # noqa: RUF012
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q,enter", "answer(False)", "no"),
    ]

    def __init__(self, question: str, consequence: str, yes: str = "yes", no: str = "no") -> None:
        super().__init__()
        self.question, self.consequence = question, consequence
        self._yes, self._no = yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(printable(self.question), classes="dialog-title", markup=False)
            told = "\n".join(printable(line) for line in self.consequence.split("\n"))
            yield Static(told, markup=False)
            yield Static(
                f"\ny  {self._yes}      n  {self._no}", classes="dialog-keys", markup=False
            )

    def action_answer(self, value: bool) -> None:
        self.dismiss(value)


class LineDialog(ModalScreen[str | None]):
    """One line of text; None when it was left with escape."""

    BINDINGS = [Binding("escape", "leave", "cancel")]  # noqa: RUF012

    def __init__(
        self, title: str, hint: str = "", value: str = "", *, secret: bool = False
    ) -> None:
        super().__init__()
        self._title, self._hint, self._value, self._secret = title, hint, value, secret

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(printable(self._title), classes="dialog-title", markup=False)
            yield Input(self._value, password=self._secret, compact=True)
            yield Static(printable(self._hint), classes="dialog-keys", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value.strip() or None)

    def action_leave(self) -> None:
        self.dismiss(None)


_CHOOSES = "enter chooses, esc leaves"


class ChoiceDialog(ModalScreen[str | None]):
    """One row of a list, narrowed while one writes; None when left with escape."""

    BINDINGS = [  # noqa: RUF012
        Binding("escape", "leave", "cancel"),
        Binding("down,ctrl+n", "move(1)", "next", priority=True),
        Binding("up,ctrl+p", "move(-1)", "previous", priority=True),
    ]

    def __init__(
        self, title: str, columns: Sequence[Column], rows: Sequence[Row], empty: str = ""
    ) -> None:
        super().__init__()
        self._title, self._columns, self._rows, self._empty = title, columns, tuple(rows), empty

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Static(printable(self._title), classes="dialog-title", markup=False)
            yield Input(placeholder="write to narrow the list", compact=True)
            yield PagedTable(self._columns, id="choices")
            yield Static(
                self._empty if not self._rows else _CHOOSES,
                classes="dialog-keys",
                markup=False,
            )

    def on_mount(self) -> None:
        self.query_one(PagedTable).set_rows(self._rows)
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        rows = [
            row
            for row in self._rows
            if all(word in " ".join(t for t, _ in row.cells).lower() for word in words)
        ]
        self.query_one(PagedTable).set_rows(rows)
        if self._rows:  # an empty list that says nothing looks like one that is still being read
            told = _CHOOSES if rows else "nothing here has these words; esc leaves"
            self.query_one(".dialog-keys", Static).update(told)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        row = self.query_one(PagedTable).current
        if row is not None:
            self.dismiss(row.key)

    def on_paged_table_chosen(self, event: PagedTable.Chosen) -> None:
        self.dismiss(event.row.key)

    def action_move(self, by: int) -> None:
        table = self.query_one(PagedTable)
        (table.action_cursor_down if by > 0 else table.action_cursor_up)()

    def action_leave(self) -> None:
        self.dismiss(None)


class TextDialog(ModalScreen[None]):
    """A text to read; q or escape leaves."""

    BINDINGS = [Binding("escape,q,enter", "leave", "close")]  # noqa: RUF012

    def __init__(self, title: str, lines: list[Line] | Build) -> None:
        super().__init__()
        self._title, self._lines = title, lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Static(printable(self._title), classes="dialog-title", markup=False)
            yield TextPane(id="dialog-text")
            yield Static("q or esc closes", classes="dialog-keys", markup=False)

    def on_mount(self) -> None:
        pane = self.query_one(TextPane)
        pane.wrapping = True
        pane.show(self._lines)
        pane.focus()

    def action_leave(self) -> None:
        self.dismiss(None)


class CommandDialog(TextDialog):
    """The command that does what is on screen: shown, written to a file, offered by OSC 52."""

    def __init__(
        self, command: str, paths: StatePaths, title: str = "The command that does this"
    ) -> None:
        self.command = command
        self.file = paths.cache / "command.txt"
        super().__init__(title, [])

    def on_mount(self) -> None:
        lines: list[Line] = [[(self.command, "bold")], []]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(self.command + "\n", encoding="utf-8")
            told = f"It stands in {self.file} too, and was offered to the terminal's clipboard."
        except OSError as error:
            told = f"It could not be written to {self.file}: {error}"
        self._lines = [*lines, *paragraph(told, 70, "dim")]
        self.app.copy_to_clipboard(self.command)


def error_lines(error: ModelOpsError, width: int) -> list[Line]:
    """What, why and hint of an error as lines of a pane."""
    lines = paragraph(error.what, width, "bad")
    if error.why:
        lines += [[], *paragraph(error.why, width)]
    if error.hint:
        lines += [[], *paragraph(f"hint: {error.hint}", width, "accent")]
    return lines
