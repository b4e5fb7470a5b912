"""The one reader of jobs: looks for changes in a thread and posts typed messages.

Idle, it asks SQLite for ``data_version`` four times a second (microseconds) and wakes nobody. What
changed is read there as well, so that no handler of the screens ever waits for a disk.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError, NotFound
from engine.types.jobs import JobPage, JobState, JobView
from screens.messages import BridgeTrouble, EngineChanged, JobChanged, JobEvents, JobsChanged

if TYPE_CHECKING:
    from textual.message_pump import MessagePump

    from engine.api import Workbench
    from engine.types.system import EngineStatus

#: Seconds between looks at the version number of the store.
LOOK_EVERY = 0.25
#: Seconds between looks at the events of a watched job: at most one repaint a second.
EVENTS_EVERY = 1.0
#: Seconds between questions to the engine's socket.
ENGINE_EVERY = 5.0
PAGE = 200


@dataclass(frozen=True)
class JobsQuery:
    """Which jobs the list shows."""

    states: frozenset[JobState] | None = None
    text: str = ""
    limit: int = PAGE


class Bridge:
    """Started and stopped by the app; ``jobs_target`` is the Jobs screen while there is one."""

    def __init__(self, workbench: Workbench, app: MessagePump) -> None:
        self._workbench = workbench
        self._app = app
        self.jobs_target: MessagePump | None = None
        self._query = JobsQuery()
        self._watched: str | None = None
        self._offset = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._dirty = True
        self._detail_dirty = True
        self._version = -1
        self._engine: EngineStatus | None = None
        self._engine_at = 0.0
        self._events_at = 0.0
        self._trouble = ""
        self._page: tuple[tuple[JobView, ...], bool] | None = None
        self._read: tuple[tuple[JobView, ...], str | None] = ((), None)
        """What was read last, and where the next page begins."""
        self._read_for: tuple[Any, ...] = ()
        self._thread: threading.Thread | None = None

    # -- asked by the screens (any thread) --------------------------------------------------------

    def start(self) -> None:
        """Begin to look. The thread is a daemon: it never holds up the end of the program."""
        self._thread = threading.Thread(target=self._loop, name="bridge", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread (it takes a moment at most)."""
        self._stopping = True
        self._wake.set()

    def ask(self, **changes: object) -> None:
        """Change the question (``states``, ``text``, ``limit``); the answer is a message."""
        with self._lock:
            self._query = replace(self._query, **changes)  # type: ignore[arg-type]
            self._dirty = True
            self._page = None
        self._wake.set()

    @property
    def query(self) -> JobsQuery:
        """The question as it stands."""
        return self._query

    def watch(self, job_id: str | None) -> None:
        """Tell everything about one job from now on: its rows, then its events from the start."""
        with self._lock:
            if job_id == self._watched:
                return
            self._watched, self._offset = job_id, 0
            self._detail_dirty = True
            self._events_at = 0.0
        self._wake.set()

    def refresh(self) -> None:
        """Read everything again now (after an action of ours)."""
        with self._lock:
            self._dirty = self._detail_dirty = True
            self._engine_at = 0.0
        self._wake.set()

    # -- in the thread ----------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping:
            try:
                self._look()
                self._trouble = ""
            except (ModelOpsError, sqlite3.Error, OSError) as error:
                self._tell_trouble(error)
                self._wake.wait(1.0)
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()
        self._workbench.jobs.close()

    def _look(self) -> None:
        self._look_at_engine()
        jobs = self._workbench.jobs
        version = jobs.changed()
        if version != self._version:
            self._version = version
            self._dirty = self._detail_dirty = True
        if self._dirty and self.jobs_target is not None:
            self._dirty = False
            self._read_list()
        if self._watched is None or self.jobs_target is None:
            return
        with self._lock:
            # as one: another job that is watched between the two would never be read
            watched, dirty = self._watched, self._detail_dirty
            self._detail_dirty = False
        if watched is None:
            return
        if dirty:
            self._read_job(watched)
        if time.monotonic() - self._events_at >= EVENTS_EVERY:
            self._events_at = time.monotonic()
            self._read_events(watched)

    def _read_list(self) -> None:
        query = self._query
        page, jobs = JobPage((), None), list[JobView]()
        same = (self._version, query.states, query.text)
        known, following = self._read
        if self._read_for == same and following is not None and len(known) <= query.limit:
            # nothing changed, only more is wanted: what is known is not read again
            page, jobs = JobPage((), following), list(known)
        while len(jobs) < query.limit:
            want = min(1000, query.limit - len(jobs))
            page = self._workbench.jobs.list(
                states=query.states, text=query.text, limit=want, before=page.next_key
            )
            jobs += page.jobs
            if page.next_key is None:
                break
        self._read_for, self._read = same, (tuple(jobs), page.next_key)
        found = (tuple(jobs), page.next_key is not None)
        if found != self._page and self._tell(JobsChanged(*found)):
            self._page = found

    def _read_job(self, job_id: str) -> None:
        jobs = self._workbench.jobs
        try:
            job = jobs.get(job_id)
        except NotFound:
            self._tell(JobChanged(job_id, None))
            return
        self._tell(JobChanged(job_id, job, jobs.steps(job_id), jobs.attempts(job_id)))

    def _read_events(self, job_id: str) -> None:
        while not self._stopping and self._watched == job_id:
            try:
                page = self._workbench.jobs.events(job_id, self._offset)
            except NotFound:
                return
            with self._lock:
                if self._watched != job_id:
                    return
                moved = page.next_offset != self._offset
                if page.events and not self._tell(JobEvents(job_id, page.events, moved)):
                    return  # the screen was left: they are read again when it comes back
                self._offset = page.next_offset
            if not moved:
                return

    def _look_at_engine(self) -> None:
        if time.monotonic() - self._engine_at < ENGINE_EVERY and self._engine_at:
            return
        self._engine_at = time.monotonic()
        status = self._workbench.system.engine_status()
        before = self._engine
        changed = before is None or (before.running, before.pid) != (status.running, status.pid)
        self._engine = status
        if changed:
            self._app.post_message(EngineChanged(status))

    def _tell(self, message: JobsChanged | JobChanged | JobEvents) -> bool:
        """Whether there is a screen that hears it."""
        target = self.jobs_target
        return target is not None and target.post_message(message)

    def _tell_trouble(self, error: Exception) -> None:
        if str(error) == self._trouble:
            return
        self._trouble = str(error)
        self._version = -1
        self._workbench.jobs.close()
        if isinstance(error, ModelOpsError):
            told = BridgeTrouble(error.what, error.why, error.hint)
        else:
            told = BridgeTrouble("the jobs can't be read", str(error), "it is tried again")
        self._app.post_message(told)
