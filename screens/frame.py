"""What all eight screens share: the frame, the filter line, help, the command twin, workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from engine.errors import ModelOpsError
from screens.widgets.key_hints import KeyHints
from screens.widgets.paged_table import PagedTable
from screens.widgets.text_pane import Build, TextPane
from screens.widgets.top_bar import TopBar

if TYPE_CHECKING:
    # 15 ms: only when something is written
    from textual.widgets import Input

    from engine.api import Workbench
    from screens.app import WorkbenchApp

Result = TypeVar("Result")


class WorkScreen(Screen[None]):
    """A mode of the app. Subclasses give ``NAME``, ``TITLE`` and a body."""

    NAME: ClassVar[str] = ""
    AUTO_FOCUS = "#list"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-short"), (30, "-tall")]  # noqa: RUF012

    def __init__(self) -> None:
        # as the first Resize would set them, so that it need not style everything again
        width, height = self.app.size
        points = (width, self.HORIZONTAL_BREAKPOINTS), (height, self.VERTICAL_BREAKPOINTS)
        found = [max(p for p in breakpoints if p[0] <= value)[1] for value, breakpoints in points]
        super().__init__(classes=" ".join(found))

    def compose(self) -> ComposeResult:
        yield TopBar([self.heading])
        with Vertical(id="frame"):
            yield from self.compose_body()
        yield KeyHints()
        yield Static(
            "this terminal is smaller than 60x16; `modelops-tui jobs list` prints plain lines",
            id="too-small",
            markup=False,
        )

    def compose_body(self) -> ComposeResult:
        """The widgets between the top line and the key hints."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.work_app.screen_made(self)

    @property
    def heading(self) -> str:
        """The screen's name in the breadcrumb."""
        return self.NAME.capitalize()

    @property
    def work_app(self) -> WorkbenchApp:
        """The app, as what it is."""
        return cast("WorkbenchApp", self.app)

    @property
    def workbench(self) -> Workbench:
        """The engine's public face."""
        return self.work_app.workbench

    @property
    def top_bar(self) -> TopBar:
        return self.query_one(TopBar)

    # -- what a screen answers --------------------------------------------------------------------

    def command_twin(self) -> str:
        """The shell command that shows or does what is on screen."""
        return f"modelops-tui {self.NAME}"

    def palette_ids(self) -> list[tuple[str, str, Callable[[], None]]]:
        """``(text, help, what choosing it does)`` of the things on this screen."""
        return []

    def apply_filter(self, text: str) -> None:
        """The filter changed (called while it is written)."""

    def action_reload(self) -> None:
        """Read everything again."""

    def show_empty(self, lines: Build) -> None:
        """What is said in place of the list when there is nothing to list."""
        found = self.query("#empty")
        if found:
            cast(TextPane, found.first()).show(lines)
            return
        pane = TextPane(id="empty")
        pane.show(lines)
        self.query_one("#frame").mount(pane)

    # -- filter line ------------------------------------------------------------------------------

    @property
    def filter_field(self) -> Input | None:
        """The filter line, once it was asked for."""
        found = self.query("#filter")
        return cast("Input", found.first()) if found else None

    async def action_filter(self) -> None:
        """Open the filter line; in a text it searches."""
        from textual.widgets import Input

        self._searched = self.focused if isinstance(self.focused, TextPane) else None
        field = self.filter_field
        if field is None:
            field = Input(id="filter", compact=True)
            await self.query_one("#frame").mount(field)
        field.placeholder = "search" if self._searched else "filter"
        field.display = True
        if self._searched is not None:
            field.value = self._searched.pattern
        field.focus()

    _searched: TextPane | None = None

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter" and self._searched is None and event.input.has_focus:
            self.apply_filter(event.value.strip())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id != "filter":
            return
        event.stop()
        target: Widget | None = self._searched
        if self._searched is not None:
            self._searched.search(event.value)
            event.input.display = False
        else:
            event.input.display = bool(event.value.strip())
            target = self.first_list()
        if target is not None:
            target.focus()

    def first_list(self) -> Widget | None:
        """What gets the focus when nothing else asks for it."""
        lists = self.query("#list")
        return lists.first() if lists else None

    def action_escape(self) -> None:
        """Out: the filter first, then a zoomed part, then from the details to the list."""
        field = self.filter_field
        home = self.first_list()
        if field is not None and field.display:
            searching = self._searched is not None
            field.value = ""
            field.display = False
            if searching and self._searched is not None:
                self._searched.focus()
                self._searched = None
                return
            self.apply_filter("")
            if home is not None:
                home.focus()
        elif self.maximized is not None:
            self.minimize()
        elif home is not None and self.focused is not home:
            home.focus()

    def action_zoom(self) -> None:
        """The focused part alone on the screen, or all parts again."""
        if self.maximized is not None:
            self.minimize()
        elif isinstance(self.focused, (TextPane, PagedTable)):
            self.maximize(self.focused, container=False)

    def action_show_command(self) -> None:
        """Show the command that does this; it is written to a file too (OSC 52 is not reliable)."""
        from screens.dialogs import CommandDialog

        self.app.push_screen(CommandDialog(self.command_twin(), self.workbench.paths))

    # -- work in threads --------------------------------------------------------------------------

    def in_thread(
        self,
        group: str,
        work: Callable[[], Result],
        done: Callable[[Result], None] | None = None,
        failed: Callable[[ModelOpsError], bool] | None = None,
    ) -> None:
        """Run ``work`` in a thread; then ``done`` with its result, here.

        A newer call of the same group replaces an older one's answer. An error is shown as a toast
        unless ``failed`` says that it dealt with it.
        """
        worker: Worker[Any] = self.run_worker(
            work, thread=True, group=group, name=group, exclusive=True, exit_on_error=False
        )
        self._answers[worker] = (done, failed)

    @property
    def _answers(self) -> dict[Worker[Any], tuple[Any, Any]]:
        found: dict[Worker[Any], tuple[Any, Any]] = self.__dict__.setdefault("_answer_map", {})
        return found

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker not in self._answers:
            return
        if event.state is WorkerState.SUCCESS:
            done, _ = self._answers.pop(event.worker)
            if done is not None:
                done(event.worker.result)
        elif event.state is WorkerState.ERROR:
            _, failed = self._answers.pop(event.worker)
            error = event.worker.error
            if isinstance(error, ModelOpsError) and failed is not None and failed(error):
                return
            self.work_app.show_error(error)
        elif event.state is WorkerState.CANCELLED:
            self._answers.pop(event.worker)

    def say(self, text: str) -> None:
        """A toast that tells what happened."""
        self.app.notify(text, markup=False, timeout=4)
