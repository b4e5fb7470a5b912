"""Jobs from outside the engine: submit, look, follow, ask for a stop.

Everything is read from ``jobs.db`` and the files of the run; only wishes are written. The engine
hears about them by the doorbell, or within 2 s without it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.daemon.doorbell import ring
from engine.paths import StatePaths
from engine.store import read, requests
from engine.store.schema import open_store
from engine.types.jobs import AttemptView, EventPage, JobPage, JobState, JobView, StepView

if TYPE_CHECKING:
    from engine.recipe.plan import Plan
    from engine.telemetry.watch import Growth
    from engine.types.compared import JobsCompared

#: At most this many bytes of events a page, so that a screen never stalls on a long run.
EVENT_PAGE_BYTES = 1 << 20


class Jobs:
    """The jobs of one state directory. Usable from several threads."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._local = threading.local()
        self._watch: sqlite3.Connection | None = None
        self._watch_lock = threading.Lock()

    # -- submit -----------------------------------------------------------------------------------

    def submit(self, plan: Plan, priority: int = 0, *, fresh: bool = False) -> JobView:
        """Accept a plan as a job; when this returns, the job survives a power cut.

        Args:
            plan: what ``engine.recipe.prepare`` returned.
            priority: higher goes first; jobs of the same priority run in submit order.
            fresh: compute every step again, whatever results are remembered.

        Raises:
            OutOfSpace: less space is left than the floor the engine keeps free.
            StoreBusy: another process holds the job store for too long.
        """
        from engine.daemon.space import require_space
        from engine.devices.needs import plan_needs
        from engine.store.submit import add_job

        require_space(self._paths)
        needs = plan_needs(plan, self._paths)
        job_id = add_job(
            self._conn(), self._paths, plan, priority=priority, fresh=fresh, needs=needs
        )
        ring(self._paths)
        return self.get(job_id)

    # -- look -------------------------------------------------------------------------------------

    def list(
        self,
        states: Iterable[JobState] | None = None,
        text: str = "",
        limit: int = 100,
        before: str | None = None,
    ) -> JobPage:
        """A page of jobs, newest first; ``before`` is the ``next_key`` of the page before."""
        return read.list_jobs(self._conn(), states=states, text=text, limit=limit, before=before)

    def get(self, job_id: str) -> JobView:
        """One job by its id, its number, or a prefix that only it has.

        Raises:
            NotFound: no such job.
            BadInput: several jobs begin like this.
        """
        conn = self._conn()
        return read.get_job(conn, read.resolve_id(conn, job_id))

    def steps(self, job_id: str) -> tuple[StepView, ...]:
        """The steps of a job in the order they run."""
        conn = self._conn()
        return read.list_steps(conn, read.resolve_id(conn, job_id))

    def attempts(self, job_id: str) -> tuple[AttemptView, ...]:
        """The attempts of a job, oldest first."""
        conn = self._conn()
        return read.list_attempts(conn, read.resolve_id(conn, job_id))

    def events(self, job_id: str, offset: int = 0) -> EventPage:
        """Whole events from a byte offset on, at most a megabyte; empty when there is nothing new.

        Args:
            job_id: as for ``get``.
            offset: 0, or ``next_offset`` of the page before.
        """
        path = self._paths.job_events(self._resolve(job_id))
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(EVENT_PAGE_BYTES)
        except FileNotFoundError:
            return EventPage((), offset)
        whole = data.rfind(b"\n") + 1
        events = []
        for line in data[:whole].split(b"\n"):
            record = _event(line)
            if record is not None:
                events.append(record)
        return EventPage(tuple(events), offset + whole)

    def growth(self, job_id: str) -> Growth:
        """Something to ``wait`` on until the job writes more events or output; close it."""
        from engine.telemetry.watch import Growth

        full = self._resolve(job_id)
        return Growth(self._paths.job_events(full), self._paths.job_log(full))

    def log_path(self, job_id: str) -> Path:
        """The file with the output of every attempt. Its beginning may be a hole (NUL bytes)."""
        return self._paths.job_log(self._resolve(job_id))

    def recipe_path(self, job_id: str) -> Path:
        """The recipe as it was at submit."""
        return self._paths.run_dir(self._resolve(job_id)) / "recipe.toml"

    def plan(self, job_id: str) -> dict[str, Any]:
        """The resolved plan, frozen at submit (``plan.json``)."""
        path = self._paths.run_dir(self._resolve(job_id)) / "plan.json"
        value: dict[str, Any] = json.loads(path.read_bytes())
        return value

    def compare(self, left: str, right: str) -> JobsCompared:
        """Two jobs side by side: settings that differ, figures, loss curves.

        Raises:
            NotFound: no such job.
        """
        from engine.api.comparing import compare

        return compare(self, left, right)

    def changed(self) -> int:
        """A number that changes when anything is committed (cheap: ask at 4 Hz)."""
        with self._watch_lock:
            if self._watch is None:
                self._watch = self._open(shared=True)
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    # -- ask --------------------------------------------------------------------------------------

    def cancel(self, job_id: str, now: bool = False) -> JobView:
        """Cancel: TERM, the grace period, then KILL; a second cancel (or ``now``) kills at once.

        Raises:
            Conflict: the job has ended.
        """
        view = requests.request_cancel(self._conn(), self._resolve(job_id), now=now)
        ring(self._paths)
        return view

    def pause(self, job_id: str) -> JobView:
        """Pause: save a checkpoint, leave, free the device, keep the place in the queue.

        Raises:
            Conflict: the job has ended or is being cancelled.
        """
        view = requests.request_pause(self._conn(), self._resolve(job_id))
        ring(self._paths)
        return view

    def resume(self, job_id: str) -> JobView:
        """Put a paused job back to its place in the queue.

        Raises:
            Conflict: the job is not paused.
        """
        view = requests.request_resume(self._conn(), self._resolve(job_id))
        ring(self._paths)
        return view

    def retry(self, job_id: str) -> JobView:
        """Run a failed or cancelled job again; finished steps and checkpoints are kept.

        Raises:
            Conflict: the job succeeded or has not ended.
        """
        view = requests.request_retry(self._conn(), self._resolve(job_id))
        ring(self._paths)
        return view

    def set_priority(self, job_id: str, priority: int) -> JobView:
        """Move a waiting job forward (higher) or back.

        Raises:
            Conflict: the job has ended.
        """
        view = requests.set_priority(self._conn(), self._resolve(job_id), priority)
        ring(self._paths)
        return view

    def delete(self, job_id: str) -> None:
        """Forget an ended job and remove its run folder (published artifacts stay).

        Raises:
            Conflict: the job has not ended.
        """
        full = self._resolve(job_id)
        requests.remove(self._conn(), full)
        # a folder that outlives its row (a crash here) is swept by the engine
        shutil.rmtree(self._paths.run_dir(full), ignore_errors=True)

    def close(self) -> None:
        """Close this thread's connection and the watching one."""
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is not None:
            conn.close()
            self._local.conn = None
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    # -- inside -----------------------------------------------------------------------------------

    def _resolve(self, job_id: str) -> str:
        return read.resolve_id(self._conn(), job_id)

    def _conn(self) -> sqlite3.Connection:
        conn: sqlite3.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            conn = self._open()
            self._local.conn = conn
        return conn

    def _open(self, *, shared: bool = False) -> sqlite3.Connection:
        from engine.daemon.space import refuse_network_folder

        if not self._paths.jobs_db.exists():
            self._paths.ensure()
            refuse_network_folder(self._paths.root)
        return open_store(self._paths.jobs_db, shared=shared)


def _event(line: bytes) -> dict[str, Any] | None:
    """One event, or None for what is none: an empty line, a hole, a line a crash cut short."""
    line = line.strip(b"\0 \r")
    if not line:
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
