"""Faults around the engine: its own deaths, its locks, its queue, its disk, its clock."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engine.daemon import client
from engine.errors import OutOfSpace
from engine.store.connection import StoreBusy
from engine.types.jobs import JobState
from tests.faults.harness import PATIENCE, Harness
from tests.faults.oracle import violations
from tests.support.plans import Step


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.nightly)])
@pytest.mark.timeout(1200)
def test_adoption(harness: Harness, rounds: int) -> None:
    """The engine alone dies, again and again, while one job runs on: adopted every time."""
    with harness.held() as hold:
        job = harness.submit(steps=rounds * 25, step_s=0.04, checkpoint_every=10, hold=hold)
        harness.start_engine()
        harness.wait_state(job, JobState.RUNNING)
        harness.wait_for(lambda: harness.marked()["worker"])
        worker = harness.marked()["worker"]
        for _ in range(rounds):
            harness.kill_engine()
            harness.start_engine()
            time.sleep(harness.random.uniform(0.0, 0.3))
            assert harness.marked()["worker"] == worker, "the run was disturbed"
    harness.wait_ended()
    harness.stop_engine()
    assert [a.number for a in harness.jobs.attempts(job)] == [1]
    assert violations(harness) == []


def test_a_run_that_ends_without_an_engine_is_recorded_by_the_next(harness: Harness) -> None:
    with harness.held() as hold:
        job = harness.submit(steps=5, hold=hold)
        harness.start_engine()
        harness.wait_for(lambda: harness.marked()["worker"])
        harness.kill_engine()
    harness.wait_for(lambda: not harness.marked()["shim"])
    assert harness.jobs.get(job).state is JobState.RUNNING
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness) == []


def test_hand_over(harness: Harness) -> None:
    """``engine restart`` in the middle of a run: same attempt, same worker, new engine."""
    with harness.held() as hold:
        job = harness.submit(steps=30, hold=hold)
        harness.start_engine()
        harness.wait_for(lambda: harness.marked()["worker"])
        before, worker = harness.engine.pid if harness.engine else 0, harness.marked()["worker"]
        assert client.stop(harness.paths)
        harness.start_engine()
        assert harness.engine is not None
        assert harness.engine.pid != before
        assert harness.marked()["worker"] == worker
    harness.wait_ended()
    assert [a.state for a in harness.jobs.attempts(job)] == ["succeeded"]
    harness.stop_engine()
    assert violations(harness) == []


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.nightly)])
def test_eight_engines_at_once(harness: Harness, rounds: int) -> None:
    for _ in range(rounds):
        starters = [harness.spawn_engine() for _ in range(8)]
        harness.answer()
        harness.wait_for(lambda s=starters: sum(p.poll() is None for p in s) == 1)
        losers = [p.returncode for p in starters if p.poll() is not None]
        assert losers == [75] * 7
        winner = next(p for p in starters if p.poll() is None)
        assert harness.answer()["pid"] == winner.pid
        winner.send_signal(signal.SIGKILL)
        winner.wait()


@pytest.mark.parametrize("damage", ["deleted", "garbage", "empty"])
def test_queue_db_damaged_while_down(harness: Harness, damage: str) -> None:
    harness.start_engine()
    with harness.held() as hold:
        first = harness.submit(steps=30, hold=hold)
        for _ in range(3):
            harness.submit(steps=1)
        harness.wait_state(first, JobState.RUNNING)
        harness.kill_engine()
    queue = harness.paths.queue_db
    if damage == "deleted":
        queue.unlink()
    else:
        queue.write_bytes(os.urandom(8192) if damage == "garbage" else b"")
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness) == []


@contextmanager
def locked_most_of_the_time(path: Path, share: float = 0.95) -> Iterator[None]:
    """Another process's write lock on jobs.db, held for ``share`` of the time."""
    stop = threading.Event()

    def hold() -> None:
        conn = sqlite3.connect(path, timeout=30, isolation_level=None)
        while not stop.is_set():
            conn.execute("BEGIN IMMEDIATE")
            stop.wait(0.95 * share)
            conn.execute("ROLLBACK")
            time.sleep(0.95 * (1 - share))
        conn.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def submit_when_free(harness: Harness) -> None:
    """Submit; a refusal for the lock's sake is an answer too, and nothing was accepted then."""
    before = len(harness.jobs.list().jobs)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            harness.submit(steps=2)
            return
        except StoreBusy:
            assert time.monotonic() < deadline
            assert len(harness.jobs.list().jobs) == before


def test_database_locked_most_of_the_time(harness: Harness) -> None:
    harness.start_engine()
    engine = harness.engine
    assert engine is not None
    with locked_most_of_the_time(harness.paths.jobs_db):
        for _ in range(2):
            submit_when_free(harness)
        harness.wait_ended(keep_engine=False)
    assert engine.poll() is None, "the engine died"
    harness.stop_engine()
    assert violations(harness) == []


@pytest.mark.parametrize("rounds", [8, pytest.param(80, marks=pytest.mark.nightly)])
@pytest.mark.timeout(1800)
def test_cancels(harness: Harness, rounds: int) -> None:
    """Cancelled at random moments, some with the engine killed: no commit, no rest, in time."""
    waits = []
    pressure = 1.0
    for number in range(rounds):
        harness.keep_engine()
        job = harness.submit(
            steps=100_000, step_s=0.02, checkpoint_every=50, ignore_term=number % 4 == 0
        )
        time.sleep(harness.random.uniform(0.0, 0.8))
        harness.jobs.cancel(job)
        asked = time.monotonic()
        if number % 2:
            harness.kill_engine()
            # until an engine is there again, nobody can carry the wish out
            harness.start_engine()
            asked = time.monotonic()
        harness.wait_ended()
        waits.append(time.monotonic() - asked)
        pressure = max(pressure, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    harness.stop_engine()
    assert violations(harness, expected=frozenset({JobState.CANCELLED})) == []
    assert not [line for line in harness.ledger_lines() if line["what"] == "commit"]
    p99 = sorted(waits)[int(0.99 * (len(waits) - 1))]
    harness.figures["cancel p99"] = f"{p99:.2f} s"
    if rounds >= 80:
        # the grace of this harness is 3 s; where processes queue for the CPU, so does the end
        assert p99 < (3 + 1) * pressure, sorted(waits)


def test_cancel_now_does_not_wait(harness: Harness) -> None:
    harness.paths.config.write_text("[engine]\ngrace_s = 600.0\n")
    harness.start_engine()
    job = harness.submit(steps=100_000, step_s=0.02, ignore_term=True)
    harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
    harness.jobs.cancel(job)
    harness.jobs.cancel(job)
    # far below the grace
    harness.wait_ended()


def test_strays_of_a_killed_shim(harness: Harness) -> None:
    """A child that closed every descriptor and left the session is found and killed."""
    harness.start_engine()
    with harness.held() as hold:
        job = harness.submit(steps=50, step_s=0.02, checkpoint_every=10, orphan=True, hold=hold)
        harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
        harness.wait_for(lambda: harness.marked()["other"])
        orphan = harness.marked()["other"]
        assert harness.kill_random("shim")
        harness.wait_for(lambda: harness.jobs.get(job).attempt == 2)
        assert not set(orphan) & set(harness.marked()["other"])
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness, checkpoint_every=10) == []


def fill_disk(filler: Path) -> None:
    """Write until nothing more fits."""
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small tmpfs needs root"
)
@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Accepted jobs finish after space returns; new ones are refused with the reason."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"root may not mount here: {mounted.stderr.strip()}")
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "16")
    harness = Harness(small, extra_env={"MODELOPS_SPACE_FLOOR_MIB": "16"})
    try:
        harness.ledger = tmp_path / "ledger"
        harness.ledger.touch()
        harness.start_engine()
        for _ in range(rounds):
            filler = small / "filler"
            with harness.held() as hold:
                harness.submit(steps=15, step_s=0.05, checkpoint_every=5, hold=hold)
                waiting = harness.submit(steps=2)
                harness.wait_for(lambda: harness.marked()["worker"])
                fill_disk(filler)
            with pytest.raises(OutOfSpace, match="not enough space"):
                harness.submit(steps=1)
            time.sleep(1.5)
            assert harness.jobs.get(waiting).state is JobState.QUEUED
            filler.unlink()
            harness.wait_ended()
        harness.stop_engine()
        assert violations(harness) == [], harness.log_tail()
    finally:
        harness.close()
        harness.jobs.close()
        subprocess.run(["umount", "-l", str(small)], check=True)


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
    long value = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &value) != 1) value = 0; fclose(file); }
    return value;
}
int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, ts);
    if (id == CLOCK_REALTIME) ts->tv_sec += offset();
    return status;
}
time_t time(time_t *t) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (t) *t = ts.tv_sec;
    return ts.tv_sec;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler makes the false clock")
def test_the_wall_clock_jumps_by_years(harness: Harness) -> None:
    source, library = harness.root / "clock.c", harness.root / "clock.so"
    offset = harness.root / "offset"
    source.write_text(_CLOCK)
    offset.write_text("0")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    harness.extra_env = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}
    harness.start_engine()
    year = 365 * 86400
    began = time.time()

    def told_later(job: str) -> bool:
        return any(event["t"] > began + 5 * year for event in harness.jobs.events(job).events)

    with harness.held() as hold:
        # the engine runs already when the clock jumps; the worker begins in another decade
        offset.write_text(str(10 * year))
        job = harness.submit(steps=40, step_s=0.05, checkpoint_every=5, hold=hold)
        harness.submit(steps=2)
        harness.wait_for(lambda: told_later(job) and harness.marked()["worker"])
        for jump in (-20, 3, 0):
            offset.write_text(str(jump * year))
            time.sleep(0.4)
            if jump < 0:
                harness.kill_random("worker")
            if jump == 3:
                harness.kill_engine()
                harness.start_engine()
    harness.wait_ended()
    times = [event["t"] for event in harness.jobs.events(job).events]
    assert max(times) - min(times) > year, "the clock did not jump for the worker"
    harness.stop_engine()
    assert violations(harness, checkpoint_every=5) == []


#: How a shell on a terminal may start the engine (``{start}``): each is the shipped way.
WAYS = {
    "foreground": "{start}; echo started; sleep 60",
    "background": "{start} & wait; echo started; sleep 60",
    "nohup": "nohup {start} >/dev/null 2>&1; echo started; sleep 60",
    "pipe": "{start} | cat; echo started; sleep 60",
    "subshell": "( {start} ); echo started; sleep 60",
    "interactive": "set -m; {start} & wait; echo started; sleep 60",
}


@pytest.mark.parametrize(
    "way", [*list(WAYS)[:2], *(pytest.param(w, marks=pytest.mark.nightly) for w in list(WAYS)[2:])]
)
def test_the_engine_survives_a_hang_up(harness: Harness, way: str) -> None:
    """Started from a shell on a terminal that then goes away (the SSH line drops)."""
    command = WAYS[way].format(start=f"{sys.executable} -m modelops_tui engine start")
    environment = harness.env
    pid, terminal = pty.fork()
    if pid == 0:
        # nothing but this: another thread may have held any lock when the process was copied
        os.execvpe("bash", ["bash", "-c", command], environment)
    output = b""
    while b"started\r\n" not in output:
        output += os.read(terminal, 1024)
    # closing the master hangs up the session: SIGHUP to its foreground group
    os.close(terminal)
    os.waitpid(pid, 0)
    time.sleep(0.3)
    # an engine that died with the terminal never answers
    answer = harness.answer()
    status = Path(f"/proc/{answer['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(status[3]) == answer["pid"], "it leads a session of its own"
    assert int(status[4]) == 0, "it has no controlling terminal"
    job = harness.submit_steps(Step("probe", params={"ledger": str(harness.ledger)}))
    harness.wait_ended(keep_engine=False)
    assert harness.jobs.get(job).state is JobState.SUCCEEDED
    client.stop(harness.paths)


def test_the_oracle_bites(harness: Harness) -> None:
    """With the inheritance of the locks broken, a killed engine's successor starts a second
    attempt beside the first: the oracle must say so."""
    broken = harness.root / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import subprocess\n"
        "original = subprocess.Popen.__init__\n"
        "def init(self, *args, **kwargs):\n"
        "    kwargs.pop('pass_fds', None)\n"
        "    original(self, *args, **kwargs)\n"
        "subprocess.Popen.__init__ = init\n"
        "import engine.daemon.attempts as attempts\n"
        "attempts.clear_strays = lambda paths, running: True\n"
    )
    plugin = harness.env["PYTHONPATH"]
    harness.extra_env = {"PYTHONPATH": f"{broken}:{plugin}"}
    with harness.held() as hold:
        harness.submit(steps=60, step_s=0.05, hold=hold)
        harness.start_engine()
        harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
        harness.kill_engine()
        harness.start_engine()
        harness.wait_for(lambda: any("overlap" in line for line in violations_so_far(harness)))


def violations_so_far(harness: Harness) -> list[str]:
    return [f"overlap: {line}" for line in harness.ledger_lines() if line["what"] == "overlap"]


def test_the_witness_is_a_kernel_lock(tmp_path: Path) -> None:
    """What the oracle rests on: two holders of one flock can't be."""
    file = tmp_path / "witness"
    first = os.open(file, os.O_RDWR | os.O_CREAT)
    second = os.open(file, os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(second)
