"""Work of the Data screen: each piece in a process of its own, with progress and an end key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from screens.child import Child
from screens.data.lines import raw
from screens.detail_screen import DetailScreen
from screens.dialogs import TextDialog
from screens.progress import ProgressDialog, Stopped, Task
from screens.prose import table
from screens.text import Line, number

#: Rows of a query's answer that are shown.
SQL_ROWS = 1_000


class DataWork(DetailScreen):
    """What takes seconds on large data. The dialog can be left; the same key shows it again."""

    data_task: Task | None = None
    """The import or query that runs, or None."""

    def read_apart(self, what: str, *refs: str) -> Any:
        """What ``screens.data.reader`` says (called in a thread)."""
        task = Task(what)
        paths = self.workbench.paths
        return Child([what], list(refs), paths, task, module="screens.data.reader").run()

    def busy(self) -> bool:
        """True, and its progress is shown, while one runs."""
        if self.data_task is None or self.data_task.over:
            return False
        self.app.push_screen(ProgressDialog(self.data_task))
        return True

    def run_import(self, source: Path, name: str) -> None:
        """A new version of a dataset from a file."""

        def done(version: Any) -> None:
            told = f"{name}@{version['version']}: {number(version['rows'])} rows"
            self.say(child.narration or told)
            self.action_reload()

        title = f"Import {source.name} as {name}"
        child = self._run(title, ["data", "import"], [str(source), name], done, source)

    def run_sql(self, query: str) -> None:
        """A read-only query; its answer in a dialog."""

        def done(rows: list[dict[str, Any]]) -> None:
            told = f"{len(rows)} rows" if len(rows) != 1 else "1 row"
            if len(rows) >= SQL_ROWS:
                told = f"the first {told}"
            columns = list(rows[0]) if rows else []
            lines: list[Line] = [[(told, "dim")]]
            values = [list(row.values()) for row in rows]
            lines += table(columns, values, shown=raw) if rows else []
            self.app.push_screen(TextDialog(query, lines))

        self._run("Query", ["data", "sql", "--limit", str(SQL_ROWS)], [query], done)

    def _run(
        self,
        title: str,
        command: list[str],
        arguments: list[str],
        done: Callable[[Any], None],
        source: Path | None = None,
        stopped: str = "Nothing was changed.",
    ) -> Child:
        task = Task(title, stopped, on_stop=lambda: child.stop())
        task.phase = "working"
        child = Child(command, arguments, self.workbench.paths, task, source)
        task.watch = child.watch
        self.data_task = task
        dialog = ProgressDialog(task)

        def ended(answer: Any) -> None:
            dialog.look()
            done(answer)

        def failed(error: ModelOpsError) -> bool:
            dialog.look()
            if isinstance(error, Stopped):
                self.say(f"{error.what}. {error.why}")
                self.action_reload()
            else:
                self.work_app.show_error(error)
            return True

        self.in_thread("work", child.run, ended, failed)
        self.app.push_screen(dialog)
        return child

    def on_unmount(self) -> None:
        """The screens close: nobody waits for the answer of a query or an import any more."""
        if self.data_task is not None and not self.data_task.over:
            self.data_task.stop()
