"""However the workbench ends, the terminal is as it was, and the exit status says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.terminal.session import PATIENCE_S, Session

READY = "house-style"


def test_quit_tells_which_jobs_go_on(root: Path) -> None:
    with Session.workbench(root) as session:
        session.wait_for(READY)
        session.press("\x11")
        assert session.end() == 0
        assert session.restored
        assert "4 jobs go on" in session.text


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_signals_leave_cleanly(root: Path, number: signal.Signals, code: int) -> None:
    with Session.workbench(root) as session:
        session.wait_for(READY)
        session.signal(number)
        assert session.end() == code
        assert session.restored
        assert "Traceback" not in session.text


def test_a_dead_terminal_ends_it(root: Path) -> None:
    with Session.workbench(root) as session:
        session.wait_for(READY)
        session.hang_up()
        assert session.process.wait(timeout=PATIENCE_S) == 129


def test_dumb_terminal_is_told_the_twin(root: Path) -> None:
    with Session.workbench(root, env={"TERM": "dumb"}) as session:
        assert session.end() == 2
        assert "modelops-tui jobs list" in session.text
        assert b"\x1b[?1049h" not in session.output


def test_no_terminal_is_told_the_twin(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelops_tui"],
        env={**os.environ, "MODELOPS_HOME": str(root), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "jobs list" in done.stderr
    assert done.stdout == ""


_BROKEN = """
import sys
import time
from pathlib import Path
from engine.api import Workbench
from screens.app import WorkbenchApp
from screens.jobs.screen import JobsScreen

where = sys.argv[2]

def broken(self, *_):
    raise RuntimeError("broken on purpose")

if where == "handler":
    JobsScreen.action_active_only = broken
else:
    def start(self):
        self.in_thread("broken", lambda: broken(None))
    JobsScreen.action_active_only = start

app = WorkbenchApp(Workbench(sys.argv[1]))
app.run()
sys.exit(app.return_code or 0)
"""


def test_exception_in_a_handler(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(_BROKEN)
    with Session([sys.executable, str(script), str(root), "handler"]) as session:
        session.wait_for(READY)
        session.press("a")
        assert session.end() == 1
        assert session.restored
        assert "broken on purpose" in session.text


def test_exception_in_a_worker_is_a_toast(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(_BROKEN)
    with Session([sys.executable, str(script), str(root), "worker"], size=(120, 36)) as session:
        session.wait_for(READY)
        mark = session.press("a")
        session.wait_for("broken on purpose", mark)
        session.press("\x11")
        assert session.end() == 0
        assert session.restored


_SLOW = """
import sys, time
from modelops_tui.launch import launch
from screens.jobs.screen import JobsScreen

def start(self):
    self.in_thread("slow", lambda: time.sleep(600))
    self.say("a thread reads")

JobsScreen.action_active_only = start
sys.exit(launch())
"""


def test_quitting_waits_for_no_thread(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(_SLOW)
    with Session([sys.executable, str(script)], {"MODELOPS_HOME": str(root)}) as session:
        session.wait_for(READY)
        mark = session.press("a")
        session.wait_for("a thread reads", mark)
        session.press("\x11")
        assert session.end() == 0
        assert session.restored
        assert "jobs go on" in session.text


def test_stopped_from_outside_and_continued(root: Path) -> None:
    """Nothing was given up at SIGSTOP: SIGCONT must not begin a second reader beside the first."""
    with Session.workbench(root) as session:
        session.wait_for(READY)
        for _ in range(3):
            mark = len(session.output)
            for number in (signal.SIGSTOP, signal.SIGCONT):
                session.signal(number)
            # the terminal is taken again (keys of before are dropped), then all is drawn
            end = time.monotonic() + PATIENCE_S
            while (taken := session.output.find(b"\x1b[?1049h", mark)) < 0:
                assert time.monotonic() < end, "the terminal was not taken again"
                time.sleep(0.02)
            session.wait_for(READY, taken)
        # every key is read by the one reader that there is
        for key, title in (("2", "Recipes"), ("8", "System"), ("1", READY)):
            mark = session.press(key)
            session.wait_for(title, mark)
        session.press("\x11")
        assert session.end() == 0
        assert session.restored
