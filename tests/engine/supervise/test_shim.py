"""The shim alone around real processes: its files, its signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.daemon.attempts import SHIM
from engine.daemon.lock import is_locked, try_lock
from engine.supervise import shim
from engine.supervise.identity import open_process, start_ticks


def start(
    folder: Path, script: str, grace: float = 5.0, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A shim around ``python -c script``, holding the lock ``folder/lock``."""
    spec = {
        "argv": [sys.executable, "-c", script],
        "work_dir": str(folder),
        "log": str(folder / "log"),
        "ballast": str(folder / "ballast"),
        "grace_s": grace,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    lock = try_lock(folder / "lock")
    assert lock is not None
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SHIM), str(folder)],
        pass_fds=(lock,),
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )
    os.close(lock)
    return process


def wait_for(condition: Any, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def dead(pid: int) -> bool:
    """True for a process that is gone, or waits to be reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def exit_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "exit.json").read_text())
    return value


def test_begun_then_exit_and_the_lock_in_between(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        "import os, time; print('hello', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    )
    process = start(tmp_path, script)
    wait_for(lambda: (tmp_path / "begun.json").exists())
    begun = json.loads((tmp_path / "begun.json").read_text())
    assert begun["pid"] == process.pid
    assert begun["ticks"] == start_ticks(process.pid)
    assert is_locked(tmp_path / "lock")
    assert not (tmp_path / "exit.json").exists()
    fd = open_process(begun)
    assert fd is not None
    os.close(fd)
    go.touch()
    assert process.wait(120) == 0
    assert not is_locked(tmp_path / "lock")
    ended = exit_of(tmp_path)
    assert (ended["code"], ended["signal"], ended["stop"]) == (0, None, None)
    assert ended["max_rss_bytes"] > 1 << 20
    assert (tmp_path / "log").read_text() == "hello\n"
    assert open_process(begun) is None


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [("raise SystemExit(7)", 7, None), ("import os; os.kill(os.getpid(), 11)", None, 11)],
)
def test_how_the_worker_ended(
    tmp_path: Path, script: str, code: int | None, number: int | None
) -> None:
    assert start(tmp_path, script).wait(120) == 0
    assert (exit_of(tmp_path)["code"], exit_of(tmp_path)["signal"]) == (code, number)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    process = start(tmp_path, "")
    process.wait(120)
    spec = json.loads((tmp_path / "spec.json").read_text())
    spec["argv"] = ["/nonexistent/python"]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    subprocess.run([sys.executable, "-I", "-S", str(SHIM), str(tmp_path)], check=True, timeout=120)
    assert exit_of(tmp_path)["code"] == 127
    assert "could not be started" in (tmp_path / "log").read_text()


def test_term_lets_the_worker_save(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )
    process = start(tmp_path, script)
    wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert (exit_of(tmp_path)["code"], exit_of(tmp_path)["stop"]) == (5, "term")


STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\ntime.sleep(600)"
)


def test_the_grace_period_ends_in_a_kill(tmp_path: Path) -> None:
    process = start(tmp_path, STUBBORN, grace=0.4)
    wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    begin = time.monotonic()
    # asked again and again: the deadline of the first time stands, else this never ends
    while process.poll() is None:
        assert time.monotonic() < begin + 120
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert time.monotonic() - begin > 0.35
    assert (exit_of(tmp_path)["signal"], exit_of(tmp_path)["stop"]) == (9, "grace")


def test_usr1_kills_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, STUBBORN, grace=60)
    wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 0
    assert exit_of(tmp_path)["stop"] == "kill"


def test_everything_the_worker_left_is_killed(tmp_path: Path) -> None:
    """Children in other groups and sessions, without descriptors, are swept by the subreaper."""
    script = (
        "import subprocess, sys\n"
        "for session in (False, True):\n"
        "    p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=session)\n"
        "    print(p.pid, flush=True)\n"
    )
    process = start(tmp_path, script)
    assert process.wait(120) == 0
    pids = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert len(pids) == 2
    assert all(start_ticks(pid) is None for pid in pids)
    assert exit_of(tmp_path)["swept"] >= 1


def test_a_killed_shim_takes_its_worker_along(tmp_path: Path) -> None:
    process = start(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
    worker = int((tmp_path / "log").read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not is_locked(tmp_path / "lock"))
    # a process that ends gives its files back a moment before it counts as dead
    wait_for(lambda: dead(worker))
    assert not (tmp_path / "exit.json").exists()


def test_the_ballast_pays_for_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = tmp_path / "ballast"
    ballast.write_bytes(b"x")
    real = os.open

    def full_while_ballast(path: str, *rest: Any) -> int:
        if "exit.json" in str(path) and ballast.exists():
            raise OSError(28, "No space left on device")
        return real(path, *rest)

    monkeypatch.setattr(shim.os, "open", full_while_ballast)
    shim.write_durably(str(tmp_path), "exit.json", {"code": 0}, str(ballast))
    assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 0}
    assert not ballast.exists()


def test_it_needs_nothing_but_the_standard_library() -> None:
    code = (
        f"import sys; sys.argv = ['shim']; sys.path[:] = [p for p in sys.path if 'site' not in p]\n"
        f"exec(compile(open({str(SHIM)!r}).read().replace('__main__', 'x'), 'shim', 'exec'))\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('engine', 'typing', 'pathlib')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
