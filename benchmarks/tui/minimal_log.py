"""A log in the stock widget for one: all lines given to it, the end shown."""

from __future__ import annotations

import sys
from pathlib import Path

from textual.app import App, ComposeResult
from textual.widgets import Log


class MinimalLog(App[None]):
    """The text is read and handed to the widget at once."""

    def compose(self) -> ComposeResult:
        yield Log()

    def on_mount(self) -> None:
        text = Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace")
        self.query_one(Log).write(text)


if __name__ == "__main__":
    MinimalLog().run()
