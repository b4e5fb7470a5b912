"""A log of any length over ``LogFile``: only the visible lines are read, in any direction."""

from __future__ import annotations

from pathlib import Path

from textual.message import Message

from screens.actions import bindings
from screens.log_file import LINE_CAP, LogFile
from screens.text import Line
from screens.widgets.text_pane import TextPane

#: Seconds between looks at a log that is shown.
LOOK_EVERY = 1.0


class LogView(TextPane):
    """Keys of a text, ``f`` follows the end, ``w`` wraps."""

    BINDINGS = bindings("log")

    class Indexed(Message):
        """A part of the log was indexed in the background."""

        can_replace_kind = True

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LogView.Indexed)

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.log_file: LogFile | None = None
        self.following = True
        self._widest = 0
        self._empty: list[Line] = [[("nothing was written yet", "dim")]]

    def on_mount(self) -> None:
        self.set_interval(LOOK_EVERY, self._look)

    def on_unmount(self) -> None:
        if self.log_file is not None:
            self.log_file.close()

    def open(self, path: Path | None) -> None:
        """Show a file from now on (None: nothing)."""
        if self.log_file is not None and self.log_file.path == path:
            return
        self._reopen(path)

    def _reopen(self, path: Path | None) -> None:
        if self.log_file is not None:
            self.log_file.close()
        fold = max(10, self.size.width) if self.wrapping else LINE_CAP
        self.log_file = LogFile(path, fold) if path is not None else None
        self.found = -1
        self._scan_some()

    def _look(self) -> None:
        if self.log_file is not None and self.is_on_screen and self.log_file.changed():
            self._scan_some()

    def _scan_some(self) -> None:
        """A few chunks at once, so that the loop stays free: 4 MB take about 10 ms."""
        log = self.log_file
        more = False
        if log is not None:
            for _ in range(4):
                more = log.scan()
                if not more:
                    break
        self._show_index()
        if more:
            self.post_message(self.Indexed())

    def on_log_view_indexed(self) -> None:
        self._scan_some()

    def _show_index(self) -> None:
        log = self.log_file
        count = len(log) if log and not log.gone else 0
        before = self.virtual_size.height
        at_end = self.following
        self.resize_to(max(1, count), 0 if self.wrapping else self._widest)
        if at_end and count:
            self.scroll_end(animate=False)
        if before >= count or self.scroll_offset.y + self.size.height >= before - 1:
            self.refresh()

    def resized(self) -> None:
        if self.log_file is not None and self.wrapping:
            self._reopen(self.log_file.path)
        elif self.following:
            self._show_index()

    def line(self, number: int) -> Line:
        log = self.log_file
        gone = log is not None and log.gone
        if log is None or gone or not len(log):
            return [("the log is gone: its job was deleted", "warn")] if gone else self._empty[0]
        text = log.line(number)
        if len(text) > self._widest:
            # the scrollable width grows with what was seen: no line is read for its length alone
            self._widest = len(text)
            self.call_later(self._show_index)
        lowered = text.lower()
        if "error" in lowered or "traceback" in lowered:
            return [(text, "bad")]
        return [(text, "warn" if "warning" in lowered else "")]

    @property
    def text(self) -> str:
        log = self.log_file
        return "\n".join(log.line(n) for n in range(min(len(log), 2000))) if log else ""

    # -- actions ----------------------------------------------------------------------------------

    def action_follow(self) -> None:
        self.following = not self.following
        self.app.notify("following the end" if self.following else "not following", timeout=2)
        if self.following:
            self._show_index()

    def action_wrap(self) -> None:
        self.wrapping = not self.wrapping
        if self.log_file is not None:
            self._reopen(self.log_file.path)

    def action_scroll_line_up(self) -> None:
        self.following = False
        super().action_scroll_line_up()

    def action_scroll_half_up(self) -> None:
        self.following = False
        super().action_scroll_half_up()

    def action_scroll_top(self) -> None:
        self.following = False
        super().action_scroll_top()

    def action_scroll_bottom(self) -> None:
        self.following = True
        super().action_scroll_bottom()

    def on_mouse_scroll_up(self) -> None:
        self.following = False

    def find(self, step: int) -> bool:
        log = self.log_file
        if not self.pattern or log is None or not len(log):
            return False
        start = self.found if self.found >= 0 else self.scroll_offset.y - 1
        self.run_worker(
            lambda: log.find(self.pattern, start, step),
            thread=True,
            group="log-search",
            exclusive=True,
            exit_on_error=False,
            name="find",
        )
        return True

    def on_worker_state_changed(self, event: object) -> None:
        worker = getattr(event, "worker", None)
        if worker is None or worker.group != "log-search" or not worker.is_finished:
            return
        if isinstance(worker.result, int) and worker.result >= 0:
            self.following = False
            self._go_to(worker.result)
        elif worker.error is None:
            self.app.notify(f"no line contains {self.pattern!r}", severity="warning", markup=False)
