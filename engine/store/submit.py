"""Accepting a job: its files first, then its rows, then the promise.

The commit order is the promise of the product: ``plan.json`` and ``recipe.toml`` are fsynced, then
the rows are committed with ``synchronous=FULL``, and only then does ``add_job`` return.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.daemon.sweeping import make_staged
from engine.paths import StatePaths
from engine.store.connection import transaction
from engine.supervise.crash import crash_point
from engine.supervise.durable import sync_folder, write_durably

if TYPE_CHECKING:
    from engine.recipe.plan import Plan

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True)
class StepNeeds:
    """What the client could learn about a step at submit, so that the engine need not import kinds.

    ``estimate_bytes`` is None where the step depends on an earlier step's outputs.
    """

    shares: bool = False
    estimate_bytes: int | None = None
    declared: bool = False
    """The recipe names the bytes itself: they stand, whatever was measured."""
    device: str | None = None
    threads: int = 0
    signature: str | None = None
    """Steps with the same signature need about the same memory."""


def new_job_id(number: int) -> str:
    """``000017-k3f9``: in submit order, and never the same in a store that started again from 1.

    Published artifacts are keyed by job id, so an id must not come back with another meaning.
    """
    return f"{number:06d}-" + "".join(secrets.choice(_ALPHABET) for _ in range(4))


def add_job(
    conn: sqlite3.Connection,
    paths: StatePaths,
    plan: Plan,
    *,
    priority: int = 0,
    fresh: bool = False,
    needs: Mapping[str, StepNeeds] | None = None,
) -> str:
    """Accept a plan as a job: when this returns the job survives a power cut.

    Args:
        conn: a connection of this thread.
        paths: the state directory.
        plan: what ``engine.recipe.prepare`` returned.
        priority: higher goes first.
        fresh: compute every step, whatever is remembered.
        needs: what is known of each step by name.

    Returns:
        The job id.
    """
    paths.runs.mkdir(exist_ok=True)
    staged, held = make_staged(paths.runs)
    placed: Path | None = None
    try:
        _write_files(staged, plan)
        crash_point("submit.files")
        with transaction(conn):
            number = _next_number(conn)
            job_id = new_job_id(number)
            # the rename happens under the write lock: a run folder without a row, seen under that
            # lock, is the rest of a submit that never happened and may be swept
            placed = paths.run_dir(job_id)
            staged.rename(placed)
            sync_folder(paths.runs)
            crash_point("submit.renamed")
            _insert_rows(conn, job_id, plan, priority, fresh, needs or {})
            crash_point("submit.inserted")
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if placed is not None:
            shutil.rmtree(placed, ignore_errors=True)
        raise
    finally:
        os.close(held)
    crash_point("submit.committed")
    return job_id


def _next_number(conn: sqlite3.Connection) -> int:
    row = conn.execute("SELECT seq FROM sqlite_sequence WHERE name='jobs'").fetchone()
    return int(row[0]) + 1 if row else 1


def _write_files(folder: Path, plan: Plan) -> None:
    write_durably(
        folder / "plan.json", json.dumps(plan.to_json(), ensure_ascii=False, indent=1).encode()
    )
    write_durably(folder / "recipe.toml", plan.source_text.encode())
    (folder / "attempts").mkdir()
    (folder / "steps").mkdir()
    for name in ("log", "events.jsonl"):
        os.close(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600))
    sync_folder(folder)


def _insert_rows(
    conn: sqlite3.Connection,
    job_id: str,
    plan: Plan,
    priority: int,
    fresh: bool,
    needs: Mapping[str, StepNeeds],
) -> None:
    first = plan.steps[0]
    conn.execute(
        "INSERT INTO jobs (id, name, kind, state, created, priority, lane, step, steps_total,"
        " recipe_sha256, source_path, fresh) VALUES (?,?,?,'queued',?,?,?,?,?,?,?,?)",
        (
            job_id,
            plan.name,
            plan.kind,
            time.time(),
            priority,
            first.lane,
            first.name,
            len(plan.steps),
            plan.sha256,
            str(plan.source_path) if plan.source_path else None,
            int(fresh),
        ),
    )
    nothing = StepNeeds()
    conn.executemany(
        "INSERT INTO steps (job_id, name, ord, kind, state, lane, shares, estimate_bytes,"
        " declared, device, threads, signature, needs, require, point, params)"
        " VALUES (?,?,?,?,'queued',?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                job_id,
                step.name,
                order,
                step.kind,
                step.lane,
                int((need := needs.get(step.name, nothing)).shares),
                need.estimate_bytes,
                int(need.declared),
                need.device,
                need.threads,
                need.signature,
                _json(list(step.needs)),
                _json(dict(step.require)),
                _json(step.point) if step.point is not None else None,
                _json(dict(step.params)),
            )
            for order, step in enumerate(plan.steps)
        ],
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
