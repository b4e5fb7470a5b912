"""The app: modes, themes, engine, errors. What a screen shows and does stands in its own folder."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.await_complete import AwaitComplete
from textual.screen import Screen

from engine.api import Workbench
from engine.errors import ModelOpsError
from screens import themes
from screens.actions import SCREEN_NAMES, bindings
from screens.bridge import Bridge
from screens.garbage import COLLECT_AFTER_S, collect_garbage, forget_closed_widgets
from screens.messages import BridgeTrouble, EngineChanged
from screens.resuming import come_back
from screens.settings import UiSettings, load_settings
from screens.typeahead import TypeAhead

if TYPE_CHECKING:
    from engine.types.system import EngineStatus
    from screens.frame import WorkScreen


def _mode(name: str) -> Callable[[], Screen[Any]]:
    """A screen's module is imported when it is first shown."""

    def make() -> Screen[Any]:
        from importlib import import_module

        made: Screen[Any] = import_module(f"screens.{name}.screen").SCREEN()
        return made

    return make


class WorkbenchApp(TypeAhead):
    """One state directory in eight screens. Closing it never stops a job."""

    TITLE = "ModelOps TUI"
    CSS_PATH = "../assets/workbench.tcss"
    ENABLE_COMMAND_PALETTE = False
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        name: _mode(name) for name in SCREEN_NAMES
    }
    DEFAULT_MODE = "jobs"
    BINDINGS = bindings("everywhere")

    def __init__(
        self,
        workbench: Workbench | None = None,
        *,
        settings: UiSettings | None = None,
        ascii_only: bool = False,
        start_engine: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.workbench = workbench or Workbench()
        self.settings = settings or load_settings(self.workbench.paths.config)
        self.clock = clock
        self.ascii_only = ascii_only or self.settings.ascii
        self.engine: EngineStatus | None = None
        #: A job that was just submitted: the Jobs screen goes to it once, as soon as it is listed.
        self.job_to_show = ""
        #: Models that the Chat screen begins with when it is shown next.
        self.wanted_talk: tuple[str, ...] = ()
        self._start_engine = start_engine and self.settings.start_engine
        self.bridge = Bridge(self.workbench, self)
        self.animation_level = "none"
        for theme in themes.THEMES:
            self.register_theme(theme)
        self._begin_with_theme(themes.chosen(self.settings))
        if self.ascii_only:
            from screens.ascii_filter import AsciiFilter

            self._filters.append(AsciiFilter())
        self.set_keymap(dict(self.settings.keys))

    def _begin_with_theme(self, name: str) -> None:
        """As setting ``theme``, but before the first frame: nothing has to be styled again."""
        self.set_reactive(App.theme, name)
        theme = self.current_theme
        classes = {f"-theme-{name}": True, "-dark-mode": theme.dark, "-light-mode": not theme.dark}
        self.update_classes(classes, update=False)
        self._refresh_truecolor_filter(self.ansi_theme)
        self.stylesheet.set_variables(self.get_css_variables())

    # -- life -------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._handle_signals()
        come_back(self)
        self.bridge.start()
        for problem in self.settings.problems:
            self.notify(problem, severity="warning", markup=False)
        if self._start_engine:
            self.action_start_engine()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)):
            try:
                loop.add_signal_handler(number, self._leave, code)
            except (ValueError, RuntimeError):
                return  # not the main thread: whoever runs the loop handles signals

    def _leave(self, code: int) -> None:
        self.bridge.stop()
        self.exit(return_code=code)

    def on_unmount(self) -> None:
        self.bridge.stop()

    async def action_quit(self) -> None:
        """Leave; the launcher says which jobs go on."""
        self._leave(0)

    # -- going places -----------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        """Show one of the eight screens, out of any dialog."""
        while len(self.screen_stack) > 1:
            self.pop_screen()
        if self.current_mode != name:
            self.switch_mode(name)

    def pop_screen(self) -> AwaitComplete:
        """Close the uppermost dialog; what those before it left in memory goes."""
        forget_closed_widgets()
        return super().pop_screen()

    def action_go_back(self) -> None:
        """One step back: out of a dialog, to the Jobs screen, out of the program."""
        if len(self.screen_stack) > 1:
            self.pop_screen()
        elif self.current_mode != self.DEFAULT_MODE:
            self.switch_mode(self.DEFAULT_MODE)
        else:
            self._leave(0)

    def action_help(self) -> None:
        """Help for the focused thing."""
        from screens.help import HelpDialog

        if not isinstance(self.screen, HelpDialog):
            self.push_screen(HelpDialog(self.focused, self.current_mode))

    def action_palette(self) -> None:
        """Every action and every id, narrowed while one writes."""
        from screens.palette import open_palette

        open_palette(self)

    def action_next_theme(self) -> None:
        """The next theme; `config set ui.theme NAME` keeps it."""
        place = themes.NAMES.index(self.theme) if self.theme in themes.NAMES else -1
        self.theme = themes.NAMES[(place + 1) % len(themes.NAMES)]
        self.notify(f"theme {self.theme}", timeout=2)

    # -- engine -----------------------------------------------------------------------------------

    def action_start_engine(self) -> None:
        """Start the engine when none runs (an older one is replaced; its runs go on)."""
        self.run_worker(
            self._ensure_engine,
            thread=True,
            group="engine",
            name="start the engine",
            exclusive=True,
            exit_on_error=False,
        )

    def _ensure_engine(self) -> None:
        self.workbench.system.ensure_engine()
        self.bridge.refresh()

    def on_engine_changed(self, event: EngineChanged) -> None:
        before, self.engine = self.engine, event.status
        if before is not None and before.running and not event.status.running:
            self.notify(
                "The engine is gone. Running jobs go on; E starts it again.",
                severity="warning",
                timeout=8,
            )
        elif before is not None and not before.running and event.status.running:
            self.notify("The engine runs.", timeout=3)
        for stack in self._screen_stacks.values():
            for screen in stack:
                self.tell_engine(screen)

    def screen_made(self, screen: Screen[Any]) -> None:
        """One of the eight is shown for the first time; it is kept until the end."""
        self.tell_engine(screen)
        self.set_timer(COLLECT_AFTER_S, collect_garbage)

    def tell_engine(self, screen: Screen[Any]) -> None:
        """Put the engine's state in the top line of a screen."""
        from screens.widgets.top_bar import TopBar

        text, style = ("", "")
        if self.engine is not None:
            text, style = (
                ("engine ●", "$success")
                if self.engine.running
                else ("no engine ○ E starts", "$warning")
            )
        for bar in screen.query(TopBar):
            bar.set_engine(text, style)

    # -- errors -----------------------------------------------------------------------------------

    def on_bridge_trouble(self, event: BridgeTrouble) -> None:
        self.show_error(ModelOpsError(event.what, event.why, event.hint))

    def on_worker_state_changed(self, event: Any) -> None:
        if event.worker.error is not None and event.state.name == "ERROR":
            self.show_error(event.worker.error)

    def show_error(self, error: BaseException | None) -> None:
        """A toast with what, why and hint; of an unexpected error, its kind and its words."""
        if isinstance(error, ModelOpsError):
            parts = [error.why, f"hint: {error.hint}" if error.hint else ""]
            title, text = error.what, "\n".join(p for p in parts if p)
        else:
            title, text = "Something went wrong in the screens", f"{type(error).__name__}: {error}"
            self.log.error(text)
        self.notify(
            text or title, title=title if text else "", severity="error", markup=False, timeout=10
        )

    def work_screen(self, name: str) -> WorkScreen | None:
        """A screen that was shown already, or None."""
        stack = self._screen_stacks.get(name, [])
        return stack[0] if stack else None  # type: ignore[return-value]
