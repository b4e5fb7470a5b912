"""The smallest Textual app that shows a table: what every ratio here is taken against."""

from __future__ import annotations

import sys

from textual.app import App, ComposeResult
from textual.widgets import DataTable


class MinimalApp(App[None]):
    """A DataTable of as many rows as asked."""

    def compose(self) -> ComposeResult:
        yield DataTable()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        table.add_columns("job", "state", "name")
        for number in range(int(sys.argv[1])):
            table.add_row(f"{number:06d}", "succeeded", f"job-{number}")
        self.call_after_refresh(lambda: setattr(self, "title", "ready"))


if __name__ == "__main__":
    MinimalApp().run()
