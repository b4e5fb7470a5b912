"""One engine in this process, step by step: messages lost, doubled and refused; locks; restarts."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.api.jobs import Jobs
from engine.daemon.engine import Engine
from engine.daemon.lock import try_lock
from engine.daemon.settings import EngineSettings
from engine.paths import StatePaths
from engine.store import run
from engine.store.run import Expected
from engine.types.jobs import JobState
from tests.faults.harness import PATIENCE, PLUGIN, ROOT
from tests.support.plans import Step, plan


class Bench:
    """An engine without its main loop: the test is the loop."""

    def __init__(self, root: Path) -> None:
        self.paths = StatePaths(root / "state").ensure()
        self.jobs = Jobs(self.paths)
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        self.paths.runs.mkdir(exist_ok=True)
        self.paths.locks.mkdir(exist_ok=True)
        return Engine(self.paths, EngineSettings(grace_s=2.0), lambda: None)

    def submit(self, *steps: Any, **params: Any) -> str:
        return self.jobs.submit(plan(*(steps or (Step("probe", params=params),)))).id

    def turn_until(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline
            self.engine.sweep(force=True)
            time.sleep(0.01)

    def ended(self, job: str) -> bool:
        return self.jobs.get(job).ended is not None

    def close(self) -> None:
        self.turn_until(lambda: not self.engine.running)
        self.engine.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{PLUGIN}")
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_message_that_comes_twice_starts_one_attempt(bench: Bench) -> None:
    job = bench.submit(steps=10, step_s=0.02)
    for _ in range(5):
        bench.engine.take("cpu", job)
    assert len(bench.engine.running) == 1
    assert bench.jobs.get(job).attempt == 1
    bench.turn_until(lambda: bench.ended(job))
    # and one that comes late, after the end
    bench.engine.take("cpu", job)
    bench.engine.take("cpu", "000099-gone")
    assert bench.jobs.get(job).attempt == 1
    assert not bench.engine.running


def test_a_failed_enqueue_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = bench.engine.lanes["cpu"]
    real, refused = lane.offer, []

    def broken(job_id: str) -> None:
        if len(refused) < 3:
            refused.append(job_id)
            raise sqlite3.OperationalError("database is locked")
        real(job_id)

    monkeypatch.setattr(lane, "offer", broken)
    lane.start()
    job = bench.submit()
    bench.turn_until(lambda: bench.ended(job))
    assert refused == [job] * 3


def test_the_lane_is_locked_before_the_claim(bench: Bench) -> None:
    """While a dying tree still holds the lane, the job stays queued and unclaimed."""
    held = try_lock(bench.paths.locks / "lane-cpu.lock")
    assert held is not None
    job = bench.submit()
    bench.engine.take("cpu", job)
    view = bench.jobs.get(job)
    assert (view.state, view.attempt) == (JobState.QUEUED, 0)
    os.close(held)
    bench.engine.take("cpu", job)
    assert bench.jobs.get(job).state is JobState.RUNNING
    bench.turn_until(lambda: bench.ended(job))


def test_an_attempt_that_cannot_be_spawned_goes_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("engine.daemon.attempts.subprocess.Popen", refuse)
    job = bench.submit()
    begin = time.monotonic()
    bench.engine.take("cpu", job)
    view = bench.jobs.get(job)
    assert view.state is JobState.QUEUED
    assert "could not be started" in view.reason
    assert [a.state for a in bench.jobs.attempts(job)] == ["never-began"]
    # it is not tried again at once
    assert bench.engine._not_before[job] >= begin + 2
    monkeypatch.undo()


def test_a_claim_without_a_spawn_is_found_by_the_next_engine(bench: Bench) -> None:
    """The engine died between its COMMIT and its first process: nothing had begun."""
    job = bench.submit()
    assert run.claim(bench.engine.conn, Expected(job, 0, "probe"), "cpu") == 1
    bench.engine.close()
    bench.engine = bench.new_engine()
    bench.engine.start()
    bench.turn_until(lambda: bench.ended(job))
    assert [a.state for a in bench.jobs.attempts(job)] == ["never-began", "succeeded"]


def test_progress_reaches_the_row(bench: Bench) -> None:
    job = bench.submit(steps=100_000, step_s=0.02)
    bench.engine.take("cpu", job)

    def seen() -> bool:
        bench.engine.follow()
        return (bench.jobs.get(job).last_done or 0) >= 3

    bench.turn_until(seen)
    view = bench.jobs.get(job)
    assert (view.last_total, view.last_unit) == (100_000.0, "steps")
    assert view.last_eta_s is not None
    bench.jobs.cancel(job, now=True)
    bench.turn_until(lambda: bench.ended(job))


def test_an_idle_sweep_reads_one_pragma(bench: Bench) -> None:
    bench.engine.sweep(force=True)
    bench.engine.sweep()
    statements: list[str] = []
    bench.engine.conn.set_trace_callback(statements.append)
    for _ in range(3):
        bench.engine.sweep()
    bench.engine.conn.set_trace_callback(None)
    assert statements == ["PRAGMA data_version"] * 3
