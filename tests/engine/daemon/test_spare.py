"""The spare worker: used once, as safe as a cold one, and gone with its engine."""

from __future__ import annotations

import json
import os
import signal

from engine.types.jobs import JobState
from tests.faults.harness import Harness
from tests.faults.oracle import violations


def with_spare(harness: Harness) -> None:
    harness.paths.config.write_text(
        "[engine]\ngrace_s = 3.0\nhot_spare = true\nhot_spare_imports = 'csv,no_such_module'\n"
    )
    harness.start_engine()
    harness.wait_for(lambda: harness.marked()["shim"] and harness.marked()["worker"])


def begun_pid(harness: Harness, job: str, attempt: int = 1) -> int:
    file = harness.paths.attempt_dir(job, attempt) / "begun.json"
    return int(json.loads(file.read_text())["pid"])


def test_a_spare_runs_one_job_and_is_replaced(harness: Harness) -> None:
    with_spare(harness)
    spare = harness.marked()
    first = harness.submit(steps=3, checkpoint_every=2)
    second = harness.submit(steps=3)
    harness.wait_ended()
    assert begun_pid(harness, first) == spare["shim"][0]
    assert begun_pid(harness, second) not in spare["shim"]
    begins = {
        line["job"]: line["pid"] for line in harness.ledger_lines() if line["what"] == "begin"
    }
    assert begins[first] == spare["worker"][0]
    harness.wait_for(lambda: harness.marked()["worker"])
    harness.stop_engine()
    assert violations(harness) == []


def test_a_spare_leaves_with_its_engine(harness: Harness) -> None:
    with_spare(harness)
    harness.kill_engine()
    harness.wait_for(lambda: not any(harness.marked().values()))


def test_a_dead_spare_costs_nothing_but_time(harness: Harness) -> None:
    with_spare(harness)
    os.kill(harness.marked()["worker"][0], signal.SIGKILL)
    harness.submit(steps=2)
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness) == []


def test_a_run_in_a_spare_survives_the_engine_and_is_cancelled_like_any(harness: Harness) -> None:
    with_spare(harness)
    job = harness.submit(steps=50_000, step_s=0.02, checkpoint_every=5)
    harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
    harness.kill_engine()
    harness.start_engine()
    harness.wait_for(lambda: harness.jobs.get(job).state is JobState.RUNNING)
    assert [a.number for a in harness.jobs.attempts(job)] == [1]
    # not any shim: the new engine has a spare of its own by now
    os.kill(begun_pid(harness, job), signal.SIGKILL)
    harness.wait_for(lambda: harness.jobs.get(job).attempt == 2)
    harness.jobs.cancel(job)
    harness.wait_ended()
    harness.stop_engine()
    assert violations(harness, expected=frozenset({JobState.CANCELLED})) == []
