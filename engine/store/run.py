"""The engine's side of ``jobs.db``: claim, finish, remember. Everything is a compare-and-set.

The attempt number is the fencing token: a claim increments it, and only the holder of the current
number can finish. A message that comes late or twice changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.store.connection import transaction
from engine.supervise.crash import crash_point


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a step ended.

    ``state`` is succeeded, failed, stopped (on request, saved), interrupted (killed, lost) or
    never-began (no process of it ever wrote a word).
    """

    state: str
    reason: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    exit: dict[str, Any] | None = None
    began: float | None = None
    memo_key: str | None = None
    progressed: bool = False
    """A checkpoint was completed since the last attempt: the interruptions count from 0 again."""
    counts: bool = False
    """An interruption that is the step's own doing (its worker was killed or crashed)."""


@dataclass(frozen=True)
class Expected:
    """A queued job as its reader saw it; a change since then makes the compare-and-set miss."""

    job_id: str
    attempt: int
    step: str


@dataclass(frozen=True)
class Ended:
    """What ``finish`` made of it: the job's new state, and whether the job is over."""

    job_state: str
    reason: str
    over: bool
    next_step: str | None = None


#: Called with what became of a job before that is committed.
Tell = Callable[[Ended], None]


def claim(conn: sqlite3.Connection, expected: Expected, lane: str, reason: str = "") -> int | None:
    """Take a queued job for its next attempt; the lane's lock must be held already.

    Returns:
        The new attempt number, or None when the row is not what the caller saw.
    """
    job_id, attempt, step = expected.job_id, expected.attempt, expected.step
    now = time.time()
    with transaction(conn):
        changed = conn.execute(
            "UPDATE jobs SET state='running', attempt=attempt+1, lane=?, reason=?,"
            " started=COALESCE(started, ?) WHERE id=? AND state='queued' AND attempt=?"
            " AND step=? AND want IS NULL",
            (lane, reason, now, job_id, attempt, step),
        ).rowcount
        if changed != 1:
            return None
        conn.execute(
            "UPDATE steps SET state='running', attempts=attempts+1, reason='',"
            " started=COALESCE(started, ?) WHERE job_id=? AND name=?",
            (now, job_id, step),
        )
        conn.execute(
            "INSERT INTO attempts (job_id, number, step, lane, state) VALUES (?,?,?,?,'running')",
            (job_id, attempt + 1, step, lane),
        )
        # aging: everyone in front of this job has been passed over once more
        conn.execute(
            "UPDATE jobs SET passed=passed+1 WHERE state='queued'"
            " AND seq < (SELECT seq FROM jobs WHERE id=?)",
            (job_id,),
        )
        crash_point("engine.claiming")
    crash_point("engine.claimed")
    return attempt + 1


def _silent(_: Ended) -> None:
    return


def finish(
    conn: sqlite3.Connection,
    job_id: str,
    attempt: int,
    outcome: Outcome,
    tell: Tell = _silent,
) -> Ended | None:
    """Record how an attempt ended and move the job on, in one transaction.

    Args:
        conn: an open store.
        job_id: the job.
        attempt: the fencing token.
        outcome: how the attempt ended.
        tell: called before the COMMIT: whoever sees the new state finds the events of it written.

    Returns:
        What became of the job, or None when this attempt is not the current one (already recorded).
    """
    with transaction(conn):
        job = conn.execute(
            "SELECT * FROM jobs WHERE id=? AND attempt=? AND state IN ('running','stopping')",
            (job_id, attempt),
        ).fetchone()
        if job is None:
            return None
        now = time.time()
        conn.execute(
            "UPDATE attempts SET state=?, began=?, ended=?, exit=? WHERE job_id=? AND number=?",
            (
                outcome.state,
                outcome.began,
                now,
                json.dumps(outcome.exit) if outcome.exit else None,
                job_id,
                attempt,
            ),
        )
        ended = _finish_step(conn, job, outcome, now)
        tell(ended)
        crash_point("engine.finishing")
    crash_point("engine.finished")
    return ended


def _finish_step(conn: sqlite3.Connection, job: sqlite3.Row, outcome: Outcome, now: float) -> Ended:
    if outcome.state == "succeeded":
        _step_succeeded(conn, job, outcome, now)
        if job["want"] in ("cancel", "cancel-now"):
            return _end_job(conn, job, "cancelled", "cancelled", now)
        return _advance(conn, job, now)
    if outcome.state == "failed" and job["want"] is None:
        return _fail(conn, job, outcome, now)
    if job["want"] in ("cancel", "cancel-now"):
        return _end_job(conn, job, "cancelled", "cancelled", now)
    if outcome.state == "failed":
        return _fail(conn, job, outcome, now)
    return _back_to_queue(conn, job, outcome)


def _step_succeeded(
    conn: sqlite3.Connection, job: sqlite3.Row, outcome: Outcome, now: float
) -> None:
    outputs, report = json.dumps(outcome.outputs), json.dumps(outcome.report)
    conn.execute(
        "UPDATE steps SET state='succeeded', reason='', ended=?, outputs=?, report=?, memo_key=?,"
        " interruptions=0 WHERE job_id=? AND name=?",
        (now, outputs, report, outcome.memo_key, job["id"], job["step"]),
    )
    conn.execute(
        "UPDATE jobs SET steps_done=(SELECT count(*) FROM steps WHERE job_id=jobs.id"
        " AND state='succeeded') WHERE id=?",
        (job["id"],),
    )
    if outcome.memo_key:
        conn.execute(
            "INSERT OR REPLACE INTO memo (key, job_id, step, outputs, report, created)"
            " VALUES (?,?,?,?,?,?)",
            (outcome.memo_key, job["id"], job["step"], outputs, report, now),
        )


def _advance(conn: sqlite3.Connection, job: sqlite3.Row, now: float) -> Ended:
    """After a step succeeded: the next queued step, or the end of the job."""
    rows = conn.execute(
        "SELECT name, lane, state, point FROM steps WHERE job_id=? ORDER BY ord", (job["id"],)
    ).fetchall()
    following = next((row for row in rows if row["state"] == "queued"), None)
    if following is None:
        return _end_sweep(conn, job, rows, now)
    paused = job["want"] == "pause"
    state, reason = ("paused", "paused between steps") if paused else ("queued", "")
    conn.execute(
        "UPDATE jobs SET state=?, reason=?, want=NULL, step=?, lane=?, last_done=NULL,"
        " last_total=NULL, last_unit=NULL, last_eta_s=NULL WHERE id=?",
        (state, reason, following["name"], following["lane"], job["id"]),
    )
    return Ended(state, reason, over=False, next_step=following["name"])


def _fail(conn: sqlite3.Connection, job: sqlite3.Row, outcome: Outcome, now: float) -> Ended:
    conn.execute(
        "UPDATE steps SET state='failed', reason=?, ended=? WHERE job_id=? AND name=?",
        (outcome.reason, now, job["id"], job["step"]),
    )
    _, at, number = job["step"].partition("@")
    # in a sweep only this point is over: the others go on, and one of them is picked
    only = f" AND name LIKE '%@{int(number)}'" if at and number.isdigit() else ""
    conn.execute(
        f"UPDATE steps SET state='cancelled', reason=? WHERE job_id=? AND state='queued'{only}",
        (f"not run: {job['step']} failed", job["id"]),
    )
    points_left = (
        only
        and conn.execute(
            "SELECT 1 FROM steps WHERE job_id=? AND point IS NOT NULL"
            " AND state IN ('queued','succeeded') LIMIT 1",
            (job["id"],),
        ).fetchone()
    )
    if points_left:
        return _advance(conn, job, now)
    conn.execute(
        "UPDATE steps SET state='cancelled', reason=? WHERE job_id=? AND state='queued'",
        (f"not run: {job['step']} failed", job["id"]),
    )
    return _end_job(conn, job, "failed", outcome.reason, now, outcome.error)


def _end_sweep(
    conn: sqlite3.Connection, job: sqlite3.Row, rows: list[sqlite3.Row], now: float
) -> Ended:
    """No step is left: the job succeeded unless every point of its sweep has a failed step."""
    failed = {
        row["name"].partition("@")[2]: row["name"] for row in rows if row["state"] == "failed"
    }
    if not failed:
        return _end_job(conn, job, "succeeded", "", now)
    points = {row["name"].partition("@")[2] for row in rows if row["point"] is not None}
    text = f"{len(failed)} of {len(points)} points failed: {', '.join(sorted(failed.values()))}"
    if points - set(failed):
        return _end_job(conn, job, "succeeded", text, now)
    error = {"code": "error", "what": text, "why": "", "hint": ""}
    return _end_job(conn, job, "failed", text, now, error)


def _end_job(
    conn: sqlite3.Connection,
    job: sqlite3.Row,
    state: str,
    reason: str,
    now: float,
    error: dict[str, Any] | None = None,
) -> Ended:
    conn.execute(
        "UPDATE jobs SET state=?, reason=?, want=NULL, ended=?, error=?, last_eta_s=NULL,"
        " notified=0 WHERE id=?",
        (state, reason, now, json.dumps(error) if error else None, job["id"]),
    )
    if state == "cancelled":
        conn.execute(
            "UPDATE steps SET state='cancelled', reason='cancelled', ended=COALESCE(ended, ?)"
            " WHERE job_id=? AND state NOT IN ('succeeded','failed')",
            (now, job["id"]),
        )
    return Ended(state, reason, over=True)


def _back_to_queue(conn: sqlite3.Connection, job: sqlite3.Row, outcome: Outcome) -> Ended:
    """A stopped, interrupted or never begun attempt: queued again, or paused where asked."""
    paused = job["want"] == "pause"
    state = "paused" if paused else "queued"
    reason = "paused" if paused and outcome.state == "stopped" else outcome.reason
    conn.execute(
        "UPDATE steps SET state='queued', reason=?,"
        " interruptions=CASE WHEN ? THEN 0 ELSE interruptions END + ?"
        " WHERE job_id=? AND name=?",
        (reason, outcome.progressed, int(outcome.counts), job["id"], job["step"]),
    )
    conn.execute(
        "UPDATE jobs SET state=?, reason=?, want=NULL, lane=(SELECT lane FROM steps"
        " WHERE job_id=jobs.id AND name=jobs.step) WHERE id=?",
        (state, reason, job["id"]),
    )
    return Ended(state, reason, over=False, next_step=job["step"])


def skip_step(
    conn: sqlite3.Connection,
    expected: Expected,
    outcome: Outcome,
    memo_of: str,
    tell: Tell = _silent,
) -> Ended | None:
    """Use a remembered result instead of running a step (the job must still be queued)."""
    with transaction(conn):
        job = _queued(conn, expected)
        if job is None:
            return None
        now = time.time()
        _step_succeeded(conn, job, outcome, now)
        conn.execute(
            "UPDATE steps SET memo_of=?, reason=? WHERE job_id=? AND name=?",
            (memo_of, outcome.reason, expected.job_id, expected.step),
        )
        conn.execute(
            "UPDATE jobs SET started=COALESCE(started, ?) WHERE id=?", (now, expected.job_id)
        )
        ended = _advance(conn, job, now)
        tell(ended)
        return ended


def fail_queued(
    conn: sqlite3.Connection, expected: Expected, outcome: Outcome, tell: Tell = _silent
) -> Ended | None:
    """Fail a job whose next step may not run (an unmet gate, a reference without a value)."""
    with transaction(conn):
        job = _queued(conn, expected)
        if job is None:
            return None
        ended = _fail(conn, job, outcome, time.time())
        tell(ended)
        return ended


def _queued(conn: sqlite3.Connection, expected: Expected) -> sqlite3.Row | None:
    row: sqlite3.Row | None = conn.execute(
        "SELECT * FROM jobs WHERE id=? AND state='queued' AND attempt=? AND step=?",
        (expected.job_id, expected.attempt, expected.step),
    ).fetchone()
    return row


def recall(conn: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    """The remembered result under a memo key, or None."""
    row: sqlite3.Row | None = conn.execute("SELECT * FROM memo WHERE key=?", (key,)).fetchone()
    return row


def forget(conn: sqlite3.Connection, key: str) -> None:
    """Drop a remembered result whose artifacts are gone."""
    with transaction(conn):
        conn.execute("DELETE FROM memo WHERE key=?", (key,))


def remember_peak(
    conn: sqlite3.Connection, signature: str, device: str, peak: int, seconds: float
) -> None:
    """Keep the highest measured peak of steps with the same signature on a device."""
    with transaction(conn):
        conn.execute(
            "INSERT INTO peaks (signature, device, bytes, seconds, runs) VALUES (?,?,?,?,1)"
            " ON CONFLICT (signature, device) DO UPDATE SET bytes=max(bytes, excluded.bytes),"
            " seconds=max(seconds, excluded.seconds), runs=runs+1",
            (signature, device, peak, seconds),
        )


def set_reasons(conn: sqlite3.Connection, reasons: dict[str, str]) -> None:
    """Write why queued jobs wait; only rows whose reason changes are touched."""
    with transaction(conn):
        conn.executemany(
            "UPDATE jobs SET reason=? WHERE id=? AND state='queued' AND reason != ?",
            [(reason, job_id, reason) for job_id, reason in reasons.items()],
        )


def take_untold(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Ended jobs nobody was told of, marked as told in the same transaction."""
    with transaction(conn):
        rows = conn.execute("SELECT * FROM jobs WHERE notified=0").fetchall()
        conn.execute("UPDATE jobs SET notified=1 WHERE notified=0")
    return [dict(row) for row in rows]
