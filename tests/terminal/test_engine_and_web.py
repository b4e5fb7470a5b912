"""The engine killed and back while one watches; the same screens for a browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from engine.api import Workbench
from tests.screens.seeded import Seed
from tests.terminal.session import PATIENCE_S, Session


def test_engine_killed_and_back_is_told(tmp_path: Path) -> None:
    seed = Seed(tmp_path / "state")
    workbench: Workbench = seed.workbench
    with Session.workbench(seed.paths.root, size=(120, 36)) as session:
        session.wait_for("engine ●")
        pid = workbench.system.engine_status(PATIENCE_S).pid
        assert pid is not None
        mark = len(session.output)
        os.kill(pid, signal.SIGKILL)
        session.wait_for("no engine", mark)
        mark = session.press("E")
        session.wait_for("engine ●", mark)
        assert workbench.system.engine_status(PATIENCE_S).running
        session.press("\x11")
        assert session.end() == 0
    left = workbench.system.engine_status(PATIENCE_S)
    assert left.running, "closing the screens left the engine running"
    workbench.system.stop_engine()


def test_web_needs_its_token(tmp_path: Path) -> None:
    pytest.importorskip("textual_serve", reason="the extra `web` is not installed")
    env = {**os.environ, "MODELOPS_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "modelops_tui", "--web"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        base, _, token = address.partition("/?token=")
        assert base.startswith("http://127.0.0.1:")
        assert len(token) >= 24
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                page = urllib.request.urlopen(address, timeout=PATIENCE_S).read()
                break
            except OSError:  # nobody listens yet
                assert time.monotonic() < end
                time.sleep(0.1)
        assert b"ModelOps" in page
        for wrong in (base + "/", base + "/?token=guess", base + "/ws"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(wrong, timeout=PATIENCE_S)
            assert refused.value.code == 401
        foreign = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(foreign, timeout=PATIENCE_S)
        assert refused.value.code == 403
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
