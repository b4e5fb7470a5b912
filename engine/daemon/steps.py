"""The next step of a job, made ready: outputs filled in, gates checked, memory of results asked."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.store import run
from engine.store.run import Expected, Outcome
from engine.supervise.durable import read_json, read_json_or_none


@dataclass(frozen=True)
class Ready:
    """The step can run with these parameters."""

    params: dict[str, Any]
    key: str
    """Names the computation: kind, parameters, inputs, code and data versions."""
    memo_key: str | None
    """``key`` where the result may be remembered."""
    plan: Mapping[str, Any]


@dataclass(frozen=True)
class Remembered:
    """The same step was computed before."""

    outcome: Outcome
    memo_of: str


@dataclass(frozen=True)
class Unmet:
    """The step may not run: a gate is not met or a reference has no value."""

    outcome: Outcome


@dataclass(frozen=True)
class StepRow:
    """What the store says of the next step of a queued job."""

    job_id: str
    job_name: str
    job_kind: str
    attempt: int
    fresh: bool
    name: str
    kind: str
    params: dict[str, Any]
    require: dict[str, str]
    shares: bool
    threads: int
    recipe_sha256: str
    source_path: str | None
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Outputs of the job's finished steps by name."""

    @property
    def cards(self) -> int:
        """GPUs the step takes at once, where it runs on GPUs."""
        return cards_of(self.params)

    @property
    def expected(self) -> Expected:
        """What a compare-and-set on this job compares with."""
        return Expected(self.job_id, self.attempt, self.name)


def cards_of(params: Mapping[str, Any]) -> int:
    """One GPU for each of a training step's processes (``train.distributed.processes``)."""
    place: Any = params
    for key in ("train", "distributed", "processes"):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place if isinstance(place, int) and place > 0 else 1


def load_step(conn: sqlite3.Connection, job_id: str) -> StepRow | None:
    """The next step of a job, or None when the job is not queued."""
    row = conn.execute(
        "SELECT j.id, j.name AS job_name, j.kind AS job_kind, j.attempt, j.fresh,"
        " j.recipe_sha256, j.source_path, s.* FROM jobs j"
        " JOIN steps s ON s.job_id = j.id AND s.name = j.step"
        " WHERE j.id=? AND j.state='queued' AND j.want IS NULL",
        (job_id,),
    ).fetchone()
    if row is None:
        return None
    done = conn.execute(
        "SELECT name, outputs FROM steps WHERE job_id=? AND state='succeeded'", (job_id,)
    )
    return StepRow(
        job_id=row["id"],
        job_name=row["job_name"],
        job_kind=row["job_kind"],
        attempt=row["attempt"],
        fresh=bool(row["fresh"]),
        name=row["name"],
        kind=row["kind"],
        params=json.loads(row["params"]),
        require=json.loads(row["require"]),
        shares=bool(row["shares"]),
        threads=row["threads"],
        recipe_sha256=row["recipe_sha256"],
        source_path=row["source_path"],
        outputs={item["name"]: json.loads(item["outputs"]) for item in done},
    )


def prepare(
    conn: sqlite3.Connection, paths: StatePaths, step: StepRow
) -> Ready | Remembered | Unmet:
    """Make a step ready to be claimed."""
    try:
        plan = _plan_of(paths, step)
        unmet = _gate_failures(step, plan)
        if unmet is not None:
            return unmet
        params = _filled(step, plan)
    except ModelOpsError as error:
        return Unmet(Outcome("failed", str(error), error=error.to_json()))
    key = step_key(step.kind, params, plan)
    # results are remembered for the steps of pipelines; a single recipe run again is run again
    memoized = step.job_kind == "pipeline" and not step.shares
    if memoized and not step.fresh:
        found = run.recall(conn, key)
        if found is not None:
            outputs = json.loads(found["outputs"])
            if artifacts_exist(paths, outputs):
                memo_of = f"{found['job_id']}/{found['step']}"
                outcome = Outcome(
                    "succeeded",
                    f"nothing changed: taken from {memo_of}",
                    outputs=outputs,
                    report=json.loads(found["report"]),
                )
                return Remembered(outcome, memo_of)
            run.forget(conn, key)
    return Ready(params, key, key if memoized else None, plan)


def _plan_of(paths: StatePaths, step: StepRow) -> dict[str, Any]:
    file = paths.run_dir(step.job_id) / "plan.json"
    try:
        plan = read_json(file)
    except ValueError as error:
        raise ModelOpsError(f"the plan of job {step.job_id} is damaged", why=str(error)) from error
    if plan is None:
        raise ModelOpsError(
            f"the plan of job {step.job_id} is gone",
            why=f"there is no {file}",
            hint="submit the recipe again",
        )
    return plan


def step_key(kind: str, params: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The content key of a step: same key, same result.

    Where it runs and with how many threads (``resources``) is left out; the versions of the kind's
    code and of the datasets its parameters name are in.
    """
    inputs = {name: value for name, value in params.items() if name != "resources"}
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    versions: Mapping[str, Any] = plan.get("data_versions") or {}
    data = {ref: version for ref, version in versions.items() if json.dumps(ref)[1:-1] in text}
    code = (plan.get("code_versions") or {}).get(kind)
    whole = json.dumps([kind, inputs, code, data], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


def _gate_failures(step: StepRow, plan: Mapping[str, Any]) -> Unmet | None:
    if not step.require:
        return None
    from engine.recipe import gates

    failures = [str(failure) for failure in gates.failures(step.require, step.outputs, plan)]
    if not failures:
        return None
    error = {
        "code": "gate",
        "what": f"the gate before step {step.name!r} is not met",
        "why": "; ".join(failures),
        "hint": "change the recipe's `require`, or train further, then submit it again",
    }
    return Unmet(Outcome("failed", f"gate not met: {error['why']}", error=error))


def _filled(step: StepRow, plan: Mapping[str, Any]) -> dict[str, Any]:
    if "${" not in json.dumps(step.params):
        return step.params
    from engine.recipe import refs

    filled: dict[str, Any] = refs.fill(step.params, step.outputs, plan)
    return filled


def artifacts_exist(paths: StatePaths, outputs: Mapping[str, Any]) -> bool:
    """True when every artifact that ``outputs`` names is still in the registry."""
    # by its file alone: opening the registry would load its keys and 20 MB of libraries
    folder = paths.registry / "manifests" / "sha256"
    return all(
        (folder / f"{value.removeprefix('sha256:')}.json").exists()
        for value in outputs.values()
        if isinstance(value, str) and value.startswith("sha256:")
    )


def matrix_table(conn: sqlite3.Connection, paths: StatePaths, job_id: str) -> dict[str, Any] | None:
    """The table of a finished sweep, one row a point; None for a job without a matrix."""
    rows = conn.execute(
        "SELECT name, outputs FROM steps WHERE job_id=? AND point IS NOT NULL"
        " AND state='succeeded'",
        (job_id,),
    ).fetchall()
    plan = read_json_or_none(paths.run_dir(job_id) / "plan.json") if rows else None
    if plan is None:
        return None
    from engine.recipe import picks

    return picks.table(plan, {row["name"]: json.loads(row["outputs"]) for row in rows})
