"""Two jobs side by side, from their plans, the outputs of their steps and their events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import NotFound
from engine.types.compared import Curve, JobsCompared

if TYPE_CHECKING:
    from engine.api.jobs import Jobs
    from engine.types.jobs import StepView


@dataclass
class _Run:
    """What is held against the other."""

    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    loss: Curve = ()
    held_out: Curve = ()


def compare(jobs: Jobs, left: str, right: str) -> JobsCompared:
    """Two jobs side by side.

    Raises:
        NotFound: no such job.
    """
    a, b = jobs.get(left), jobs.get(right)
    one, two = _read(jobs, a.id), _read(jobs, b.id)
    settings = tuple(
        (key, one.settings.get(key), two.settings.get(key))
        for key in dict.fromkeys([*one.settings, *two.settings])
        if one.settings.get(key) != two.settings.get(key)
    )
    figures = dict.fromkeys([*one.figures, *two.figures])
    artifacts = dict.fromkeys([*one.artifacts, *two.artifacts])
    return JobsCompared(
        left=a,
        right=b,
        settings=settings,
        figures=tuple((k, one.figures.get(k), two.figures.get(k)) for k in figures),
        artifacts=tuple((k, one.artifacts.get(k), two.artifacts.get(k)) for k in artifacts),
        loss=(one.loss, two.loss),
        held_out=(one.held_out, two.held_out),
    )


def _read(jobs: Jobs, job_id: str) -> _Run:
    run = _Run()
    for step in jobs.plan(job_id).get("steps", ()):
        run.settings |= _flat(step["params"], f"{step['name']}.")
    for step in jobs.steps(job_id):
        if step.started and step.ended and not step.memo_of:
            run.figures[f"{step.name}.seconds"] = round(step.ended - step.started, 3)
        for name, value in step.outputs.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                run.figures[f"{step.name}.{name}"] = float(value)
            elif isinstance(value, str) and value.startswith("sha256:"):
                run.artifacts[f"{step.name}.{name}"] = value
        _curves(jobs, job_id, step, run)
    return run


def _curves(jobs: Jobs, job_id: str, step: StepView, run: _Run) -> None:
    """The losses of a step; of one whose result was remembered, where it ran."""
    where, _, name = (step.memo_of or f"{job_id}/{step.name}").partition("/")
    loss: dict[float, float] = {}
    held_out: dict[float, float] = {}
    memory = 0.0
    try:
        for event in _events(jobs, where):
            if event.get("type") != "metrics" or event.get("step") != name:
                continue
            done = _real(event.get("done"))
            # a resumed attempt repeats a few: the last one counts
            for values, key in ((loss, "loss"), (held_out, "eval_loss")):
                value = _real(event.get(key))
                if done is not None and value is not None:
                    values[done] = value
            memory = max(memory, _real(event.get("peak_memory_bytes")) or 0.0)
    except NotFound:
        return  # the job that ran it was deleted
    for key, values in (("loss", loss), ("held-out loss", held_out)):
        if values:
            run.figures[f"{step.name}.last {key}"] = values[max(values)]
            run.figures[f"{step.name}.best {key}"] = min(values.values())
    if memory:
        run.figures[f"{step.name}.peak memory, GB"] = round(memory / 1e9, 3)
    if loss or held_out:
        run.loss, run.held_out = tuple(sorted(loss.items())), tuple(sorted(held_out.items()))


def _events(jobs: Jobs, job_id: str) -> Iterator[dict[str, Any]]:
    offset, page = 0, jobs.events(job_id)
    while page.next_offset > offset:
        yield from page.events
        offset = page.next_offset
        page = jobs.events(job_id, offset)


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """``{"train": {"lr": 1e-4}}`` as ``{"train.lr": 1e-4}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
