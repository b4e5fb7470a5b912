"""The engine: offers queued jobs to their lanes, starts attempts, watches them, records their ends.

One mutex guards all of its state and its one connection; lane threads hold it while they claim and
spawn, the main thread while it sweeps. Nothing here is the truth: ``jobs.db`` and the kernel's
locks are, and ``Engine.adopt`` rebuilds the rest after any death.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from engine.daemon import attempts, progress, space, steps
from engine.daemon.admission import Admission
from engine.daemon.attempts import Running
from engine.daemon.launch import attempt_spec, resume_reason, worker_environment
from engine.daemon.lock import try_lock
from engine.daemon.settings import EngineSettings, worker_threads
from engine.daemon.spare import Spare
from engine.daemon.stops import carry_requests
from engine.devices import probe
from engine.errors import ModelOpsError, OutOfSpace
from engine.paths import StatePaths
from engine.queue.dispatcher import Lane, remove_queue
from engine.store import run
from engine.store.connection import StoreBusy
from engine.store.run import Ended, Outcome, Tell
from engine.store.schema import open_store
from engine.supervise.crash import crash_point
from engine.telemetry import notify
from engine.types.jobs import JobState

_log = logging.getLogger(__name__)

#: A step whose worker crashed (SEGV, ABRT) so often without a new checkpoint fails.
MAX_CRASHES = 3


#: The next spare is started so long after the last was used: the job's own start comes first.
SPARE_PAUSE_S = 3.0


class Engine:
    """The state of one running engine. The caller holds ``engine.lock``.

    Args:
        paths: the state directory.
        settings: from ``config.toml``.
        wake: called from any thread to make the main loop look again at once.
    """

    def __init__(
        self, paths: StatePaths, settings: EngineSettings, wake: Callable[[], None]
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.mutex = threading.RLock()
        self.conn = open_store(paths.jobs_db, may_migrate=True, shared=True)
        self.conn.execute("PRAGMA busy_timeout=5000")
        self.progress_conn = open_store(paths.jobs_db, shared=True)
        self.progress_conn.execute("PRAGMA synchronous=NORMAL")
        self.progress_conn.execute("PRAGMA busy_timeout=1000")
        self.running: dict[tuple[str, int], Running] = {}
        self._wake = wake
        self._not_before: dict[str, float] = {}
        self._room_needed: dict[str, int] = {}
        self._seen_version = -1
        self._untold = True
        self.spare: Spare | None = None
        self._spare_due = 0.0
        remove_queue(paths.queue_db)
        self.admission = Admission(paths, settings)
        self.lanes = {
            name: Lane(name, paths.queue_db, self.take) for name in self.admission.lane_names
        }

    # -- start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Adopt what runs, then begin to offer."""
        with self.mutex:
            space.keep_ballast(self.paths)
            self.adopt()
            for lane in self.lanes.values():
                lane.start()
        self.sweep(force=True)

    def close(self) -> None:
        """Leave; runs go on without us and the next engine adopts them."""
        for lane in self.lanes.values():
            lane.close()
        with self.mutex:
            if self.spare is not None:
                self.spare.close()
                self.spare = None
            for running in self.running.values():
                if running.pidfd is not None:
                    os.close(running.pidfd)
                    running.pidfd = None
            self.conn.close()
            self.progress_conn.close()

    def keep_spare(self) -> None:
        """Start a spare worker where the settings want one and none waits."""
        if not self.settings.hot_spare or time.monotonic() < self._spare_due:
            return
        with self.mutex:
            if self.spare is not None and self.spare.alive:
                return
            self._spare_due = time.monotonic() + SPARE_PAUSE_S
            environment = worker_environment(
                self.paths, self.settings, worker_threads(0), [probe.CPU_LANE]
            )
            try:
                self.spare = Spare(
                    self.paths, attempts.SHIM, environment, self.settings.hot_spare_imports
                )
            except OSError as error:
                _log.warning("no spare worker: %s", error)

    def adopt(self) -> None:
        """Watch every attempt that ``jobs.db`` says is running and that we do not watch yet."""
        rows = self.conn.execute(
            "SELECT id, attempt, step, lane FROM jobs WHERE state IN ('running','stopping')"
        ).fetchall()
        for row in rows:
            key = (row["id"], row["attempt"])
            if key in self.running:
                continue
            folder = self.paths.attempt_dir(*key)
            folder.mkdir(parents=True, exist_ok=True)
            running = Running(
                row["id"], row["attempt"], row["step"], row["lane"], folder, adopted=True
            )
            running.attach()
            running.read_lanes()
            self.running[key] = running
            _log.info("adopted job %s attempt %d", *key)

    # -- the 2 s sweep ----------------------------------------------------------------------------

    def sweep(self, *, force: bool = False) -> None:
        """Look at everything once: ends, requests, queued rows. Cheap when nothing changed."""
        with self.mutex:
            try:
                self._sweep(force)
            except OutOfSpace as error:
                # what could not be recorded is in the attempts' files and is recorded later
                dropped = space.drop_ballast(self.paths)
                self._later(f"{error}{' (ballast given back)' if dropped else ''}")
            except (ModelOpsError, OSError, sqlite3.Error) as error:
                self._later(str(error))

    def _later(self, why: str) -> None:
        """Something could not be done now; the next sweep tries it again."""
        _log.warning("%s; trying again", why)
        self._seen_version = -1

    def _sweep(self, force: bool) -> None:
        for running in list(self.running.values()):
            self.settle(running)
        version = self.conn.execute("PRAGMA data_version").fetchone()[0]
        if not force and version == self._seen_version and not self._retry_due():
            return
        self._seen_version = version
        self.adopt()
        carry_requests(self.conn, self.running)
        self.offer()

    def _retry_due(self) -> bool:
        now = time.monotonic()
        due = [job_id for job_id, when in self._not_before.items() if when <= now]
        for job_id in due:
            del self._not_before[job_id]
        return bool(due) or self.admission.waiting_for_memory

    def offer(self) -> None:
        """Schedule the queued jobs and put those that may start on their lanes' queues."""
        if not space_left(self.paths):
            self._seen_version = -1
            return
        now = time.monotonic()
        resting = {job_id for job_id, when in self._not_before.items() if when > now}
        resting |= self._without_room()
        decision = self.admission.decide(self.conn, self.running.values(), resting)
        for job_id, lane in decision.offers:
            try:
                self.lanes[lane].offer(job_id)
            except (sqlite3.Error, OSError):
                # queue.db may be locked, full or gone; jobs.db still has the row
                _log.exception("job %s could not be offered to lane %s", job_id, lane)
                self._seen_version = -1
        if decision.reasons:
            run.set_reasons(self.progress_conn, decision.reasons)

    def _without_room(self) -> set[str]:
        """Jobs whose last attempt found the disk full, while no more of it is free than then."""
        free = space.free_bytes(self.paths.root)
        for job_id in [j for j, room in self._room_needed.items() if free >= room]:
            del self._room_needed[job_id]
        if self._room_needed:
            self._seen_version = -1
        return set(self._room_needed)

    # -- a lane's thread --------------------------------------------------------------------------

    def take(self, lane: str, job_id: str) -> None:
        """An offer arrived in a lane's thread: lock the lane, claim the job, start its attempt."""
        crash_point("engine.dequeued")
        with self.mutex:
            try:
                self._take(lane, job_id)
            except (ModelOpsError, OSError, sqlite3.Error) as error:
                self._later(f"job {job_id} waits: {error}")

    def _take(self, lane: str, job_id: str) -> None:
        step = steps.load_step(self.conn, job_id)
        if step is None:
            return
        if step.shares:
            self._claim_and_spawn([lane], [], step)
            return
        busy = {
            name
            for running in self.running.values()
            if not self.admission.shares(running)
            for name in running.lanes
        }
        if lane in busy:
            return
        wanted = step.cards if lane.startswith("gpu-") else 1
        cards = [n for n in self.admission.lane_names if n.startswith("gpu-") and n != lane]
        lanes: list[str] = []
        locks: list[int] = []
        try:
            # all of them or none: two jobs that each hold half would wait for ever
            for name in [lane, *(cards if wanted > 1 else ())]:
                if len(lanes) == wanted or name in busy:
                    continue
                lock = try_lock(self.paths.locks / f"lane-{name}.lock")
                if lock is not None:
                    lanes.append(name)
                    locks.append(lock)
            if len(lanes) < wanted or lanes[0] != lane:
                # the tree of the last attempt is still dying: the sweep offers again
                self._seen_version = -1
                return
            self._claim_and_spawn(lanes, locks, step)
        finally:
            for lock in locks:
                os.close(lock)

    def _claim_and_spawn(
        self, lanes: Sequence[str], locks: Sequence[int], step: steps.StepRow
    ) -> None:
        ready = steps.prepare(self.conn, self.paths, step)
        if isinstance(ready, steps.Unmet):
            tell = self._teller(step.job_id, step.attempt, step.name, ready.outcome)
            self._moved(run.fail_queued(self.conn, step.expected, ready.outcome, tell))
            return
        if isinstance(ready, steps.Remembered):
            tell = self._teller(step.job_id, step.attempt, step.name, ready.outcome)
            memo_of = ready.memo_of
            self._moved(run.skip_step(self.conn, step.expected, ready.outcome, memo_of, tell))
            return
        reason = resume_reason(self.paths, step)
        attempt = run.claim(self.conn, step.expected, lanes[0], reason)
        if attempt is None:
            return
        spec = attempt_spec(self.paths, self.settings, step, ready, attempt, lanes)
        environment = worker_environment(self.paths, self.settings, spec["threads"], lanes)
        try:
            spare = None
            if len(locks) <= 1:
                # a spare's socket takes few descriptors
                spare, self.spare = self.spare, None
                self._spare_due = time.monotonic() + SPARE_PAUSE_S
            running = attempts.spawn(self.paths, spec, lanes[0], locks, environment, spare)
        except (OSError, ModelOpsError) as error:
            _log.error("job %s attempt %d could not be started: %s", step.job_id, attempt, error)
            self._rest(step.job_id, 2.0)
            outcome = Outcome("never-began", f"could not be started: {error}; trying again")
            run.finish(self.conn, step.job_id, attempt, outcome)
            return
        with suppress(OSError):
            running.events_offset = self.paths.job_events(step.job_id).stat().st_size
        self.running[(step.job_id, attempt)] = running
        self.admission.learn(self.conn, [running])
        self._wake()

    # -- ends -------------------------------------------------------------------------------------

    def settle(self, running: Running) -> bool:
        """Record the end of an attempt whose tree is dead; False while it lives."""
        if running.alive():
            running.attach()
            return False
        if not (running.folder / "exit.json").exists() and not attempts.clear_strays(
            self.paths, running
        ):
            _log.error("job %s: processes of it can't be killed yet", running.job_id)
            return False
        outcome = self._limited(running, attempts.judge(self.paths, running))
        crash_point("engine.judged")
        self.follow([running])
        tell = self._teller(running.job_id, running.attempt, running.step, outcome)
        ended = run.finish(self.conn, running.job_id, running.attempt, outcome, tell)
        running.release()
        self.running.pop((running.job_id, running.attempt), None)
        self._record(running, outcome, ended)
        self._moved(ended)
        return True

    def _limited(self, running: Running, outcome: Outcome) -> Outcome:
        """Fail a step that is interrupted over and over by its own doing, without progress."""
        if outcome.state == "never-began":
            self._rest(running.job_id, 2.0)
        if outcome.state == attempts.NO_SPACE:
            # it needs more than there was: the same again would end the same way
            room = space.free_bytes(self.paths.root) + space.floor_bytes()
            self._room_needed[running.job_id] = room
        if not outcome.counts or outcome.progressed:
            return outcome
        row = self.conn.execute(
            "SELECT interruptions FROM steps WHERE job_id=? AND name=?",
            (running.job_id, running.step),
        ).fetchone()
        count = int(row["interruptions"]) + 1 if row else 1
        limit = MAX_CRASHES if attempts.is_crash(outcome) else self.settings.max_interruptions
        if count < limit:
            self._rest(running.job_id, min(30.0, 0.5 * 2 ** (count - 2)) if count > 1 else 0.0)
            return outcome
        error = {
            "code": "interrupted",
            "what": f"step {running.step!r} was interrupted {count} times without progress",
            "why": outcome.reason,
            "hint": "lower its memory (batch, sequence length), then"
            f" `modelops-tui jobs retry {running.job_id}`",
        }
        return Outcome("failed", error["what"], error=error, exit=outcome.exit, began=outcome.began)

    def _rest(self, job_id: str, seconds: float) -> None:
        if seconds > 0:
            self._not_before[job_id] = time.monotonic() + seconds

    def _record(self, running: Running, outcome: Outcome, ended: Ended | None) -> None:
        self.admission.measured(self.conn, running, outcome)
        if ended is not None:
            _log.info(
                "job %s attempt %d %s; job %s %s",
                running.job_id,
                running.attempt,
                outcome.state,
                ended.job_state,
                ended.reason,
            )

    def _moved(self, ended: Ended | None) -> None:
        """A job changed state: offer its next step at once, and tell those who wait for its end."""
        if ended is not None:
            self._untold = self._untold or ended.over
            self._seen_version = -1
            self._wake()

    def _teller(self, job_id: str, attempt: int, step: str, outcome: Outcome) -> Tell:
        """Writes the events of an end, before the end itself is committed."""

        def tell(ended: Ended) -> None:
            if outcome.state == "succeeded" and outcome.reason:
                # remembered, not run: what the step reported then is shown again
                text = outcome.reason
                self._event(job_id, attempt, step, "note", level="info", text=text)
                for table in outcome.report:
                    self._event(job_id, attempt, step, "table", **table)
            points = steps.matrix_table(self.conn, self.paths, job_id) if ended.over else None
            if points is not None:
                self._event(job_id, attempt, "", "table", **points)
            state, reason = outcome.state, outcome.reason
            self._event(job_id, attempt, step, "ended", state=state, reason=reason)

        return tell

    def _event(self, job_id: str, attempt: int, step: str, kind: str, **values: Any) -> None:
        record = {"t": round(time.time(), 3), "attempt": attempt, "step": step, "type": kind}
        progress.append_event(self.paths, job_id, {**record, **values})

    def tell_ends(self) -> None:
        """Notify of jobs that ended, once each: the row is marked first, a lost message is lost."""
        command, webhook = self.settings.notify_command, self.settings.notify_webhook
        with self.mutex:
            if not self._untold:
                return
            with suppress(StoreBusy, OutOfSpace):
                told = run.take_untold(self.progress_conn)
                self._untold = False
                for job in told:
                    notify.tell(job, command=command, webhook=webhook)

    # -- following --------------------------------------------------------------------------------

    def follow(self, which: list[Running] | None = None) -> None:
        """Mirror the newest events of the running jobs into their rows."""
        with self.mutex:
            updates = {}
            for running in which if which is not None else list(self.running.values()):
                path = self.paths.job_events(running.job_id)
                events, running.events_offset = progress.read_new(path, running.events_offset)
                values = progress.columns(events)
                if values:
                    updates[running.job_id] = values
            if updates:
                with suppress(StoreBusy, OutOfSpace):
                    progress.save(self.progress_conn, updates)

    def freeze(self, job_id: str, *, thaw: bool) -> bool:
        """SIGSTOP (or SIGCONT) the worker's processes of a running job; it keeps its memory."""
        with self.mutex:
            for running in self.running.values():
                if running.job_id == job_id:
                    number = signal.SIGCONT if thaw else signal.SIGUSR2
                    return running.send(number, once=False)
        return False

    def status(self) -> dict[str, Any]:
        """What ``engine status`` shows."""
        with self.mutex:
            counts = dict(
                self.conn.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
            )
            return {
                "queued": counts.get(str(JobState.QUEUED), 0),
                "active": len(self.running),
                "lanes": [self._lane_status(name) for name in self.lanes],
            }

    def _lane_status(self, name: str) -> dict[str, Any]:
        here = [r for r in self.running.values() if name in r.lanes]
        turn = next((r for r in here if not self.admission.shares(r)), None)
        return {
            "name": name,
            "job_id": turn.job_id if turn else None,
            "attempt": turn.attempt if turn else None,
            "shares": [r.job_id for r in here if self.admission.shares(r)],
        }


def space_left(paths: StatePaths) -> bool:
    """True while more than the floor is free."""
    return space.free_bytes(paths.root) >= space.floor_bytes()
