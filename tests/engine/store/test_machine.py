"""The job store against its model, and hand mutants of the store that the model must catch."""

from __future__ import annotations

import inspect
import sqlite3
import sys
import types
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from engine.errors import ModelOpsError
from engine.store import requests, run
from tests.engine.store.machine import StoreMachine

QUICK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
#: A mutant needs to be found, not shrunk. Most take ten examples, the shyest took 400 (of four
#: searches each); the search ends at the first.
HUNT = settings(QUICK, max_examples=4000, phases=(Phase.generate,))

MUTANTS = [
    (
        run,
        "state='queued' AND attempt=?\"\n            \" AND step=?",
        "state='queued' AND (1 OR attempt=?)\"\n            \" AND step=?",
    ),
    (run, "WHERE id=? AND state='queued' AND attempt=?", "WHERE id=? AND attempt=?"),
    (run, "SET state='running', attempt=attempt+1", "SET state='running', attempt=attempt"),
    (
        run,
        "WHERE id=? AND attempt=? AND state IN ('running','stopping')",
        "WHERE id=? AND (1 OR attempt=?) AND state IN ('running','stopping')",
    ),
    (
        run,
        "WHERE id=? AND attempt=? AND state IN ('running','stopping')",
        "WHERE id=? AND attempt=?",
    ),
    (
        run,
        'state, reason = ("paused", "paused between steps") if paused',
        'state, reason = ("queued", "") if paused',
    ),
    (run, "UPDATE steps SET state='queued', reason=?,", "UPDATE steps SET reason=?,"),
    (
        run,
        "UPDATE jobs SET state=?, reason=?, want=NULL, ended=?",
        "UPDATE jobs SET state=?, reason=?, ended=?",
    ),
    (
        requests,
        "UPDATE jobs SET state='queued', want=NULL, reason='retried', error=NULL, ended=NULL",
        "UPDATE jobs SET state='queued', want=NULL, reason='retried', error=NULL",
    ),
    (requests, "WHERE job_id=? AND state != 'succeeded'", "WHERE job_id=?"),
    (requests, "if job.state is not JobState.PAUSED:", "if False:"),
    (requests, 'elif job.state is JobState.STOPPING and job.want != "pause":', "elif False:"),
]


def mutated(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    source = inspect.getsource(module)
    assert old in source, f"the mutant's text is gone from {module.__name__}"
    made = types.ModuleType(module.__name__ + "_mutant")
    made.__file__ = module.__file__
    sys.modules[made.__name__] = made
    # the dataclasses stay the real ones: the machine makes them
    exec(compile(source.replace(old, new, 1), str(module.__file__), "exec"), made.__dict__)
    for name, value in vars(module).items():
        if isinstance(value, type):
            setattr(made, name, value)
    return made


def test_the_store_follows_its_model() -> None:
    run_state_machine_as_test(StoreMachine, settings=QUICK)


@pytest.mark.nightly
def test_the_store_follows_its_model_at_length() -> None:
    run_state_machine_as_test(
        StoreMachine, settings=settings(QUICK, max_examples=2000, stateful_step_count=60)
    )


@pytest.mark.parametrize(
    ("module", "old", "new"),
    MUTANTS,
    ids=[f"{m.__name__.rpartition('.')[2]}-{i}" for i, (m, _, _) in enumerate(MUTANTS)],
)
def test_a_mutant_is_caught(module: Any, old: str, new: str) -> None:
    mutant = mutated(module, old, new)
    name = module.__name__.rpartition(".")[2]
    machine = type("Mutant", (StoreMachine,), {name: mutant})
    with pytest.raises((AssertionError, sqlite3.Error, ModelOpsError)):
        run_state_machine_as_test(machine, settings=HUNT)
