"""kill -9 of everything, at random and at named points: nothing lost, doubled or left behind."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.faults.harness import PATIENCE, Harness
from tests.faults.oracle import violations

#: Every named crash point, by the process that passes it.
CRASH_POINTS = (
    "engine.dequeued",
    "engine.claiming",
    "engine.claimed",
    "engine.spec",
    "engine.spawned",
    "engine.judged",
    "engine.finishing",
    "engine.finished",
    "shim.start",
    "shim.begun",
    "shim.forked",
    "shim.reaped",
    "shim.exited",
    "worker.begun",
    "worker.ran",
    "worker.before-result",
    "worker.after-result",
)
SUBMIT_POINTS = ("submit.files", "submit.renamed", "submit.inserted", "submit.committed")
CHECKPOINT_EVERY = 3
#: Submitting processes at once.
MAX_CLIENTS = 4


def attack(harness: Harness, kills: int, jobs: int, timeout: float) -> None:
    """Kill engine, shims, workers and submitting clients at random until ``kills`` have landed."""
    params = {"steps": 10, "step_s": 0.02, "checkpoint_every": CHECKPOINT_EVERY}
    clients: list[subprocess.Popen[str]] = []
    deadline = time.monotonic() + timeout
    while sum(harness.kills.values()) < kills:
        assert time.monotonic() < deadline, f"only {dict(harness.kills)}\n{harness.log_tail()}"
        harness.keep_engine()
        wanted = len(harness.accepted) + 2 * len(clients) < jobs or not harness.marked()["shim"]
        # on a busy machine a client takes seconds to start: more of them would only make it worse
        if wanted and len(clients) < MAX_CLIENTS:
            clients.append(harness.spawn_client(2, params))
        time.sleep(harness.random.uniform(0.0, 0.25))
        roles = harness.random.choice(
            (
                ("engine",),
                ("shim",),
                ("worker",),
                ("client",),
                ("engine", "shim"),
                ("shim", "worker"),
                ("engine", "worker", "shim"),
            )
        )
        for role in roles:
            if role == "engine":
                harness.kill_engine()
            elif role == "client":
                living = [c for c in clients if c.poll() is None]
                if living:
                    harness.random.choice(living).send_signal(signal.SIGKILL)
                    harness.kills["client"] += 1
            else:
                harness.kill_random(role)
        for process in [c for c in clients if c.poll() is not None]:
            clients.remove(process)
            harness.collect_client(process)
    for process in clients:
        harness.collect_client(process)
    # jobs whose client died before it could print are accepted as well: they must end, too
    for view in harness.jobs.list(limit=1000).jobs:
        if view.id not in harness.accepted:
            harness.accepted.append(view.id)
    harness.wait_ended(timeout)
    harness.stop_engine()


@pytest.mark.timeout(900)
def test_random_kills(harness: Harness) -> None:
    attack(harness, kills=24, jobs=10, timeout=2 * PATIENCE)
    assert violations(harness, checkpoint_every=CHECKPOINT_EVERY) == []


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_random_kills_with_hot_spares(harness: Harness) -> None:
    text = harness.paths.config.read_text()
    harness.paths.config.write_text(text + "hot_spare = true\n")
    attack(harness, kills=100, jobs=25, timeout=1500)
    assert violations(harness, checkpoint_every=CHECKPOINT_EVERY) == []


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_a_thousand_random_kills(harness: Harness) -> None:
    attack(harness, kills=1000, jobs=200, timeout=7000)
    assert violations(harness, checkpoint_every=CHECKPOINT_EVERY) == []


def crash_at(harness: Harness, point: str, jobs: int = 1) -> None:
    once = harness.root / "once"
    once.mkdir(exist_ok=True)
    harness.extra_env = {"MODELOPS_CRASH": point, "MODELOPS_CRASH_ONCE": str(once)}
    for _ in range(jobs):
        harness.submit(steps=4, step_s=0.01, checkpoint_every=2)
    harness.wait_ended()
    # the point behind the last COMMIT is passed a moment after the job's end can be seen
    harness.wait_for((once / point).exists)
    (once / point).unlink()


@pytest.mark.parametrize("points", [CRASH_POINTS[i::4] for i in range(4)])
def test_crash_points(harness: Harness, points: tuple[str, ...]) -> None:
    """Each point kills its process once; the jobs still end once, correctly."""
    for point in points:
        crash_at(harness, point)
        harness.stop_engine()
    assert violations(harness, checkpoint_every=2) == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_crash_points_twenty_times(harness: Harness, point: str) -> None:
    for _ in range(20):
        crash_at(harness, point, jobs=2)
        harness.stop_engine()
    assert violations(harness, checkpoint_every=2) == []


@pytest.mark.parametrize("point", SUBMIT_POINTS)
def test_submit_crash_points(harness: Harness, point: str) -> None:
    """A client that dies in the middle of a submit leaves all of a job or nothing of it."""
    harness.extra_env = {"MODELOPS_CRASH": point}
    process = harness.spawn_client(1, {"steps": 2})
    process.wait(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    harness.collect_client(process)
    assert harness.accepted == []
    harness.extra_env = {}
    harness.start_engine()
    harness.accepted = [view.id for view in harness.jobs.list().jobs]
    assert len(harness.accepted) == (1 if point == "submit.committed" else 0)
    after = harness.submit(steps=1)
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness) == []
    # what the dead client left on the disk is swept by the engine
    assert {p.name for p in harness.paths.runs.iterdir()} == {*harness.accepted, after}
