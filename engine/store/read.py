"""Questions to ``jobs.db``: one job, a page of jobs, steps, attempts. Never touches events."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from engine.errors import BadInput, NotFound
from engine.types.jobs import AttemptView, JobPage, JobState, JobView, StepView

_JOB_COLUMNS = (
    "seq, id, name, kind, state, reason, want, created, started, ended, attempt, priority, lane,"
    " step, steps_total, steps_done, recipe_sha256, source_path, error, last_done, last_total,"
    " last_unit, last_loss, last_rate, last_eta_s, last_memory_bytes, last_message, last_event_at"
)

_PAGE_CAP = 1000


def job_view(row: sqlite3.Row) -> JobView:
    """A row of ``jobs`` as the screens see it."""
    fields = {key: row[key] for key in row.keys() if key != "seq"}  # noqa: SIM118  Row iterates values
    fields["state"] = JobState(fields["state"])
    fields["error"] = json.loads(fields["error"]) if fields["error"] else None
    return JobView(**fields)


def resolve_id(conn: sqlite3.Connection, job_id: str) -> str:
    """The full id for an id, its number (``17``), or a prefix only one job has.

    Raises:
        NotFound: no such job.
        BadInput: several jobs begin like this.
    """
    text = job_id.strip().lower()
    if not text:
        raise BadInput("a job id is needed", hint="`modelops-tui jobs list` shows them")
    if text.isascii() and text.isdigit() and not text.startswith("0"):
        # a number as people say it; with leading zeros it is the beginning of an id
        text = f"{int(text):06d}"
    upper = text[:-1] + chr(ord(text[-1]) + 1)
    rows = conn.execute(
        "SELECT id FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT 4", (text, upper)
    ).fetchall()
    found = [str(row[0]) for row in rows]
    if text in found:
        return text
    if not found:
        raise NotFound(f"there is no job {job_id!r}", hint="`modelops-tui jobs list` shows them")
    if len(found) > 1:
        raise BadInput(
            f"{job_id!r} is the beginning of several job ids",
            why=", ".join(found[:3]) + (" ..." if len(found) > 3 else ""),
            hint="give more of the id",
        )
    return found[0]


def get_job(conn: sqlite3.Connection, job_id: str) -> JobView:
    """One job by its full id.

    Raises:
        NotFound: no such job.
    """
    row = conn.execute(f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id=?", (job_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no job {job_id!r}", hint="`modelops-tui jobs list` shows them")
    return job_view(row)


def list_jobs(
    conn: sqlite3.Connection,
    *,
    states: Iterable[JobState] | None = None,
    text: str = "",
    limit: int = 100,
    before: str | None = None,
) -> JobPage:
    """A page of jobs, newest first.

    Args:
        conn: an open store.
        states: only these states (None: all).
        text: only jobs whose id, name or kind contains it (any case).
        limit: rows a page, at most 1000.
        before: ``next_key`` of the page before.
    """
    limit = max(1, min(limit, _PAGE_CAP))
    key = _key(before)
    if states is None:
        rows = _page(conn, None, text, limit + 1, key)
    else:
        # one indexed query a state, merged: an IN list would scan the finished jobs as well
        pages = [_page(conn, state, text, limit + 1, key) for state in dict.fromkeys(states)]
        rows = list(heapq.merge(*pages, key=lambda row: -int(row["seq"])))
    more = len(rows) > limit
    rows = rows[:limit]
    return JobPage(tuple(job_view(row) for row in rows), str(rows[-1]["seq"]) if more else None)


def _key(before: str | None) -> int:
    if before is None:
        return 2**62
    try:
        return int(before)
    except ValueError:
        raise BadInput(
            f"{before!r} is not a page key", hint="pass next_key of the page before"
        ) from None


def _page(
    conn: sqlite3.Connection, state: JobState | None, text: str, limit: int, key: int
) -> list[sqlite3.Row]:
    where, values = ["seq < ?"], [key]
    arguments: list[Any] = values
    if state is not None:
        where.append("state = ?")
        arguments.append(str(state))
    if text:
        where.append("(instr(lower(name), ?) OR instr(id, ?) OR instr(lower(kind), ?))")
        arguments += [text.lower()] * 3
    arguments.append(limit)
    return conn.execute(
        f"SELECT {_JOB_COLUMNS} FROM jobs WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?",
        arguments,
    ).fetchall()


def list_steps(conn: sqlite3.Connection, job_id: str) -> tuple[StepView, ...]:
    """The steps of a job in the order they run."""
    rows = conn.execute("SELECT * FROM steps WHERE job_id=? ORDER BY ord", (job_id,))
    return tuple(
        StepView(
            job_id=row["job_id"],
            name=row["name"],
            kind=row["kind"],
            order=row["ord"],
            state=JobState(row["state"]),
            needs=tuple(json.loads(row["needs"])),
            attempts=row["attempts"],
            memo_of=row["memo_of"],
            reason=row["reason"],
            started=row["started"],
            ended=row["ended"],
            params=json.loads(row["params"]),
            outputs=json.loads(row["outputs"]),
            report=tuple(json.loads(row["report"])),
        )
        for row in rows
    )


def list_attempts(conn: sqlite3.Connection, job_id: str) -> tuple[AttemptView, ...]:
    """The attempts of a job, oldest first."""
    rows = conn.execute("SELECT * FROM attempts WHERE job_id=? ORDER BY number", (job_id,))
    return tuple(
        AttemptView(
            job_id=row["job_id"],
            number=row["number"],
            step=row["step"],
            state=row["state"],
            began=row["began"],
            ended=row["ended"],
            exit=json.loads(row["exit"]) if row["exit"] else None,
        )
        for row in rows
    )
