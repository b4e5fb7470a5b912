"""What a person asks of a job: cancel, pause, resume, retry, delete. Each is one compare-and-set.

A job that no process runs changes at once; a running one gets ``want`` and state ``stopping``, and
the engine carries it out. Requests for states they make no sense in raise ``Conflict``.
"""

from __future__ import annotations

import sqlite3
import time

from engine.errors import Conflict
from engine.store.connection import transaction
from engine.store.read import get_job
from engine.types.jobs import JobState, JobView

_RUNNING = (JobState.RUNNING, JobState.STOPPING)


def request_cancel(conn: sqlite3.Connection, job_id: str, *, now: bool = False) -> JobView:
    """Cancel a job. A second request (or ``now``) does not wait for the grace period.

    Raises:
        Conflict: the job has ended.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state in (JobState.QUEUED, JobState.PAUSED):
            _cancel_rows(conn, job_id, time.time())
        elif job.state in _RUNNING:
            again = job.want in ("cancel", "cancel-now")
            conn.execute(
                "UPDATE jobs SET state='stopping', want=?, reason=? WHERE id=?",
                (
                    "cancel-now" if now or again else "cancel",
                    "cancelling now" if now or again else "cancelling: saving what can be saved",
                    job_id,
                ),
            )
        else:
            raise _ended(job)
        return get_job(conn, job_id)


def _cancel_rows(conn: sqlite3.Connection, job_id: str, now: float) -> None:
    conn.execute(
        "UPDATE jobs SET state='cancelled', want=NULL, ended=?, reason='cancelled',"
        " notified=0 WHERE id=?",
        (now, job_id),
    )
    conn.execute(
        "UPDATE steps SET state='cancelled', reason='cancelled'"
        " WHERE job_id=? AND state NOT IN ('succeeded','failed')",
        (job_id,),
    )


def request_pause(conn: sqlite3.Connection, job_id: str) -> JobView:
    """Pause a job: it saves a checkpoint, leaves, frees its device and keeps its place.

    Raises:
        Conflict: the job has ended or is being cancelled.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state is JobState.QUEUED:
            conn.execute(
                "UPDATE jobs SET state='paused', reason='paused before it began' WHERE id=?",
                (job_id,),
            )
        elif job.state is JobState.RUNNING:
            conn.execute(
                "UPDATE jobs SET state='stopping', want='pause', reason='pausing: saving a"
                " checkpoint' WHERE id=?",
                (job_id,),
            )
        elif job.state is JobState.STOPPING and job.want != "pause":
            raise Conflict(f"job {job_id} is being cancelled")
        elif job.state not in (JobState.STOPPING, JobState.PAUSED):
            raise _ended(job)
        return get_job(conn, job_id)


def request_resume(conn: sqlite3.Connection, job_id: str) -> JobView:
    """Put a paused job back to its place in the queue.

    Raises:
        Conflict: the job is not paused.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state is not JobState.PAUSED:
            raise Conflict(
                f"job {job_id} is not paused",
                why=f"it is {job.state}",
                hint=f"`modelops-tui jobs retry {job_id}` runs an ended job again"
                if job.state in (JobState.FAILED, JobState.CANCELLED)
                else "",
            )
        conn.execute(
            "UPDATE jobs SET state='queued', want=NULL, reason='resumed' WHERE id=?", (job_id,)
        )
        return get_job(conn, job_id)


def request_retry(conn: sqlite3.Connection, job_id: str) -> JobView:
    """Queue a failed or cancelled job again; steps that succeeded and checkpoints are kept.

    Raises:
        Conflict: the job succeeded or has not ended.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            raise Conflict(
                f"job {job_id} can't be retried",
                why=f"it is {job.state}",
                hint=f"`modelops-tui jobs resume {job_id}`" if job.state is JobState.PAUSED else "",
            )
        conn.execute(
            "UPDATE steps SET state='queued', reason='', ended=NULL, interruptions=0"
            " WHERE job_id=? AND state != 'succeeded'",
            (job_id,),
        )
        step = conn.execute(
            "SELECT name, lane FROM steps WHERE job_id=? AND state='queued' ORDER BY ord LIMIT 1",
            (job_id,),
        ).fetchone()
        if step is None:
            raise Conflict(f"job {job_id} can't be retried", why="all of its steps succeeded")
        conn.execute(
            "UPDATE jobs SET state='queued', want=NULL, reason='retried', error=NULL, ended=NULL,"
            " step=?, lane=?, notified=1 WHERE id=?",
            (step["name"], step["lane"], job_id),
        )
        return get_job(conn, job_id)


def set_priority(conn: sqlite3.Connection, job_id: str, priority: int) -> JobView:
    """Move a job forward (higher) or back in the queue.

    Raises:
        Conflict: the job has ended.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            raise _ended(job)
        conn.execute("UPDATE jobs SET priority=? WHERE id=?", (priority, job_id))
        return get_job(conn, job_id)


def remove(conn: sqlite3.Connection, job_id: str) -> None:
    """Forget an ended job (its rows; the caller removes its folder afterwards).

    Raises:
        Conflict: the job has not ended.
    """
    with transaction(conn):
        job = get_job(conn, job_id)
        if job.state not in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            raise Conflict(
                f"job {job_id} can't be deleted",
                why=f"it is {job.state}",
                hint=f"`modelops-tui jobs cancel {job_id}` first",
            )
        conn.execute("DELETE FROM memo WHERE job_id=?", (job_id,))
        conn.execute("DELETE FROM jobs WHERE id=?", (job_id,))


def _ended(job: JobView) -> Conflict:
    return Conflict(f"job {job.id} has ended", why=f"it {_ENDED[job.state]}")


_ENDED = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
}
