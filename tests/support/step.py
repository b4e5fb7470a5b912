"""A step run in this process, with a real state directory and registry; its events read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.kinds import load_function, load_kinds
from engine.paths import StatePaths
from engine.worker.context import StepContext, StepResult


def make_context(
    home: Path, kind: str, params: dict[str, Any], *, job: str = "job1", step: str = "train"
) -> StepContext:
    """The context the worker would make, for a first attempt on the CPU with one thread."""
    paths = StatePaths(home).ensure()
    work = paths.step_work(job, step)
    work.mkdir(parents=True, exist_ok=True)
    return StepContext(
        job_id=job,
        job_name="tests",
        step=step,
        attempt=1,
        kind=kind,
        params=load_kinds().get(kind).model.model_validate(params),
        paths=paths,
        work_dir=work,
        recipe_sha256="0" * 64,
        recipe_dir=None,
        threads=1,
        device="cpu",
    )


def run_step(home: Path, kind: str, params: dict[str, Any], **more: Any) -> StepResult:
    """Run a step of ``kind`` to its end."""
    result: StepResult = load_function(load_kinds().get(kind).run)(
        make_context(home, kind, params, **more)
    )
    return result


def events(home: Path, event_type: str, job: str = "job1") -> list[dict[str, Any]]:
    """The job's events of one type, in order."""
    lines = StatePaths(home).job_events(job).read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["type"] == event_type]
