"""Start the full-screen workbench, and leave the terminal as it was found, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from modelops_tui.cli.output import ExitCode, out

if TYPE_CHECKING:
    from screens.app import WorkbenchApp
    from screens.settings import UiSettings

#: Seconds a hung-up app has to end by itself.
_HANGUP_GRACE_S = 3.0


def launch(ascii_only: bool = False, web: bool = False) -> int:
    """Run the workbench in this terminal, or serve it to a browser.

    Returns:
        2 where this is no terminal, 0 after serving a browser. Else the process ends here: with
        0, with 143 after SIGTERM, 129 after SIGHUP or a dead terminal, 130 after SIGINT, 1 after an
        error in the screens.
    """
    if web:
        from modelops_tui.web import serve

        return int(serve(ascii_only=ascii_only))
    problem = _unfit()
    if problem:
        out.say(f"error: the workbench needs a terminal: {problem}")
        out.say("hint: `modelops-tui jobs list` prints plain lines; --help lists the rest")
        return ExitCode.BAD_INPUT
    settings = _prepare_environment()
    # nothing of what is imported is garbage; the app turns it on again after its first frames
    gc.disable()
    # textual takes 240 to 540 ms of CPU: after everything that can refuse
    from screens.app import WorkbenchApp
    from screens.garbage import one_heap

    one_heap()
    app = WorkbenchApp(settings=settings, ascii_only=ascii_only)
    if sys.stdin.isatty():
        _watch_terminal(app)
    # a loop of our own: `asyncio.run` would wait for every thread that still reads
    app.run(mouse=app.settings.mouse_on, loop=asyncio.new_event_loop())
    code = app.return_code or 0
    _say_goodbye(app, code)
    _end(code)


def _unfit() -> str:
    """Why the screens can't be drawn here, or empty."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return ""  # a browser (textual-serve) draws, over pipes
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stdin or stderr is no terminal"
    if os.environ.get("TERM", "dumb") == "dumb":
        return "TERM is dumb"
    return ""


def _prepare_environment() -> UiSettings:
    """Read the settings, and set what Textual reads when it is imported."""
    from engine.paths import StatePaths
    from screens.settings import load_settings, over_ssh

    settings = load_settings(StatePaths.default().config)
    fps = settings.fps or (15 if over_ssh() else 0)
    if fps:
        os.environ.setdefault("TEXTUAL_FPS", str(fps))
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    return settings


def _watch_terminal(app: WorkbenchApp) -> None:
    """End the app when its terminal dies: without this Textual waits for keys for ever.

    ``poll`` reports POLLHUP without being asked for it, so the thread never wakes before that.
    """
    fd = os.dup(sys.stdin.fileno())

    def wait() -> None:
        poll = select.poll()
        poll.register(fd, 0)
        poll.poll()
        loop = getattr(app, "_loop", None)
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(app.exit, None, 129)
        threading.Event().wait(_HANGUP_GRACE_S)
        # the loop hangs in a write to the dead terminal: nothing can be saved here, jobs go on
        os._exit(129)

    threading.Thread(target=wait, name="terminal-watchdog", daemon=True).start()


def _end(code: int) -> NoReturn:
    """Leave now: no thread that still reads may hold up the end, no library may write after it.

    (duckdb's bindings print a list of what they leaked when an interpreter is taken down.)
    """
    with suppress(OSError):  # the terminal may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _say_goodbye(app: WorkbenchApp, code: int) -> None:
    """Which jobs go on, on the ordinary screen; silent when the terminal is gone."""
    if code in (129, 143):
        return
    if code == 1:
        out.say("The screens met an error and closed; jobs are not touched by it.")
    from engine.errors import ModelOpsError
    from engine.types.jobs import ACTIVE_STATES

    try:
        active = len(app.workbench.jobs.list(states=ACTIVE_STATES, limit=1000).jobs)
    except ModelOpsError:
        return
    if active:
        jobs = "1 job goes on" if active == 1 else f"{active} jobs go on"
        out.say(
            f"{jobs}. `modelops-tui` shows them again, `modelops-tui jobs list` in plain lines."
        )
