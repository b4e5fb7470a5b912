"""Backends in environments of their own: which there are, made and removed from the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError
from screens.child import Child
from screens.dialogs import ChoiceDialog, ConfirmDialog
from screens.frame import WorkScreen
from screens.progress import ProgressDialog, Stopped, Task
from screens.prose import paragraph, table
from screens.text import Line, size
from screens.widgets.paged_table import Column, Row

if TYPE_CHECKING:
    from engine.backends import BackendState

_STOPPED = "What was half made is removed; i begins again."
_COLUMNS = (Column("backend", 16), Column("state", 14), Column("size", 9, right=True),
            Column("what it writes", 0))  # fmt: skip


class BackendActions(WorkScreen):
    """Made by pip in a process of its own, with every step told."""

    backend_task: Task | None = None
    """What is being made, or None."""

    def load_pane(self) -> None:
        """Read the shown pane again."""
        raise NotImplementedError

    def action_install_backend(self) -> None:
        """Choose a backend and make its environment; a sound one only when it is asked twice."""
        if self.backend_task is not None and not self.backend_task.over:
            self.app.push_screen(ProgressDialog(self.backend_task))
            return
        self._choose("Make the environment of which backend?", self._install, lambda s: s != "main")

    def action_remove_backend(self) -> None:
        """Choose a backend and delete its environments."""

        def wanted(state: str) -> bool:
            return state not in ("main", "not installed")

        self._choose("Remove the environment of which backend?", self._remove, wanted)

    def _choose(
        self, title: str, then: Callable[[BackendState], None], wanted: Callable[[str], bool]
    ) -> None:
        def listed(states: Sequence[BackendState]) -> None:
            by_name = {s.spec.name: s for s in states if wanted(s.state)}

            def chosen(name: str | None) -> None:
                if name:
                    then(by_name[name])

            rows = [Row(name, backend_cells(state), state) for name, state in by_name.items()]
            empty = "no backend has an environment; esc leaves"
            self.app.push_screen(ChoiceDialog(title, _COLUMNS, rows, empty), chosen)

        self.in_thread("backends", self.workbench.backends.list, listed)

    def _install(self, state: BackendState) -> None:
        name = state.spec.name

        def answered(yes: bool | None) -> None:
            if yes:
                self._make(name, again=True)

        if state.state != "ready":
            self._make(name, again=False)
            return
        told = f"It is sound ({size(state.bytes)}). Making it anew downloads its packages again."
        self.app.push_screen(ConfirmDialog(f"Make {name} anew?", told), answered)

    def _make(self, name: str, *, again: bool) -> None:
        task = Task(f"Make the environment of {name}", _STOPPED, lambda: child.stop())
        task.phase = "working"
        self.backend_task = task
        command = ["backends", "install", *(["--again"] if again else [])]
        child = Child(command, [name], self.workbench.paths, task, live=True)
        dialog = ProgressDialog(task)

        def done(_: Mapping[str, Any]) -> None:
            dialog.look()
            self.say(f"{name} is ready")
            self.load_pane()

        def failed(error: ModelOpsError) -> bool:
            dialog.look()
            if isinstance(error, Stopped):
                self.say(f"{error.what}. {error.why}")
            else:
                self.work_app.show_error(error)
            self.load_pane()
            return True

        self.in_thread("install", child.run, done, failed)
        self.app.push_screen(dialog)

    def _remove(self, state: BackendState) -> None:
        name = state.spec.name

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_thread("install", partial(self.workbench.backends.remove, name), removed)

        def removed(freed: int) -> None:
            self.say(f"{name} is removed; {size(freed)} are free again")
            self.load_pane()

        told = f"{size(state.bytes)} will be free; it is made again when a job needs it."
        question = f"Remove the environment of {name}?"
        self.app.push_screen(ConfirmDialog(question, told, "remove it", "keep it"), answered)

    def on_unmount(self) -> None:
        """The screens close: nobody sees how far it is any more."""
        if self.backend_task is not None and not self.backend_task.over:
            self.backend_task.stop()


def backend_cells(state: BackendState) -> tuple[tuple[str, str], ...]:
    """Name, how its environment stands, its size, what it writes."""
    styles = {"ready": "good", "main": "good", "broken": "bad"}
    return (
        (state.spec.name, "key"),
        (state.state, styles.get(state.state, "dim")),
        (size(state.bytes) if state.bytes else "", ""),
        (", ".join(state.spec.formats), "dim"),
    )


def backend_lines(states: Sequence[BackendState], width: int) -> list[Line]:
    """Every backend, its version and what is to be known of it."""
    rows = [
        (
            s.spec.name,
            s.state,
            s.version,
            size(s.bytes) if s.bytes else None,
            ", ".join(s.spec.formats),
            s.spec.status,
        )
        for s in states
    ]
    lines = table(("backend", "state", "version", "size", "writes", "status"), rows, width, "key")
    told = "i makes the environment of one now, instead of at its first use; d removes one."
    lines += [[], *paragraph(told, width, "dim")]
    for state in states:
        note = state.detail or state.spec.note
        if note:
            lines += [[], *paragraph(f"{state.spec.name}: {note}", width)]
    return lines
