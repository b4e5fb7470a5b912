"""A model of the job store that Hypothesis drives beside the real one, on a real SQLite file."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import Conflict, NotFound
from engine.paths import StatePaths
from engine.store import read, requests, run
from engine.store.run import Expected, Outcome
from engine.store.schema import open_store
from engine.store.submit import add_job
from engine.types.jobs import JobState
from tests.support.plans import Step, plan

OUTCOMES = ("succeeded", "failed", "stopped", "interrupted", "never-began")


@dataclass
class Job:
    """What the model believes of one job."""

    steps: list[str]
    state: str = "queued"
    attempt: int = 0
    want: str | None = None
    done: int = 0
    successes: dict[str, int] = field(default_factory=dict)

    @property
    def step(self) -> str:
        return self.steps[min(self.done, len(self.steps) - 1)]


class StoreMachine(RuleBasedStateMachine):
    """Submit, claim, finish, cancel, pause, resume, retry, delete: in any order, stale or not."""

    run: ModuleType = run
    requests: ModuleType = requests

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.paths = StatePaths(self.folder).ensure()
        self.conn = open_store(self.paths.jobs_db)
        self.conn.execute("PRAGMA synchronous=OFF")
        self.model: dict[str, Job] = {}

    def teardown(self) -> None:
        self.conn.close()
        shutil.rmtree(self.folder)

    def pick(self, index: int | None) -> tuple[str, Job]:
        job_id = sorted(self.model)[(index or 0) % len(self.model)]
        return job_id, self.model[job_id]

    # -- rules ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model) < 3)
    @rule(steps=st.integers(1, 3))
    def submit(self, steps: int) -> None:
        names = [f"s{n}" for n in range(steps)]
        job_id = add_job(self.conn, self.paths, plan(*(Step(name) for name in names)))
        assert job_id not in self.model
        self.model[job_id] = Job(names)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2), stale=st.integers(0, 1))
    def claim(self, index: int | None, stale: int) -> None:
        job_id, job = self.pick(index)
        got = self.run.claim(self.conn, Expected(job_id, job.attempt - stale, job.step), "cpu")
        if job.state == "queued" and not stale:
            job.state, job.attempt = "running", job.attempt + 1
            assert got == job.attempt
        else:
            assert got is None

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2), stale=st.integers(0, 1), outcome=st.sampled_from(OUTCOMES))
    def finish(self, index: int | None, stale: int, outcome: str) -> None:
        job_id, job = self.pick(index)
        ended = self.run.finish(self.conn, job_id, job.attempt - stale, Outcome(outcome))
        if stale or job.state not in ("running", "stopping"):
            assert ended is None
            return
        assert ended is not None
        self.expect_finish(job, outcome)
        assert ended.over == (job.state in ("succeeded", "failed", "cancelled"))

    def expect_finish(self, job: Job, outcome: str) -> None:
        want, job.want = job.want, None
        cancelled = want in ("cancel", "cancel-now")
        if outcome == "succeeded":
            job.successes[job.step] = job.successes.get(job.step, 0) + 1
            job.done += 1
            if cancelled:
                job.state = "cancelled"
            elif job.done == len(job.steps):
                job.state = "succeeded"
            else:
                job.state = "paused" if want == "pause" else "queued"
        elif cancelled:
            job.state = "cancelled"
        elif outcome == "failed":
            job.state = "failed"
        else:
            job.state = "paused" if want == "pause" else "queued"

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2), stale=st.integers(0, 1))
    def use_a_remembered_result(self, index: int, stale: int) -> None:
        job_id, job = self.pick(index)
        expected = Expected(job_id, job.attempt - stale, job.step)
        ended = self.run.skip_step(self.conn, expected, Outcome("succeeded"), "other/step")
        if job.state != "queued" or stale:
            assert ended is None
            return
        job.done += 1
        job.state = "succeeded" if job.done == len(job.steps) else "queued"

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2))
    def fail_a_gate(self, index: int) -> None:
        job_id, job = self.pick(index)
        ended = self.run.fail_queued(
            self.conn, Expected(job_id, job.attempt, job.step), Outcome("failed", "gate")
        )
        assert (ended is not None) == (job.state == "queued")
        if ended is not None:
            job.state = "failed"

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2), now=st.booleans())
    def cancel(self, index: int | None, now: bool) -> None:
        job_id, job = self.pick(index)
        if job.state in ("queued", "paused"):
            job.state = "cancelled"
        elif job.state in ("running", "stopping"):
            again = job.want in ("cancel", "cancel-now")
            job.state, job.want = "stopping", "cancel-now" if now or again else "cancel"
        else:
            self.refused(self.requests.request_cancel, job_id)
            return
        self.requests.request_cancel(self.conn, job_id, now=now)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2))
    def pause(self, index: int | None) -> None:
        job_id, job = self.pick(index)
        if job.state == "queued":
            job.state = "paused"
        elif job.state == "running":
            job.state, job.want = "stopping", "pause"
        elif not (job.state == "paused" or (job.state == "stopping" and job.want == "pause")):
            self.refused(self.requests.request_pause, job_id)
            return
        self.requests.request_pause(self.conn, job_id)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2))
    def resume(self, index: int) -> None:
        job_id, job = self.pick(index)
        if job.state != "paused":
            self.refused(self.requests.request_resume, job_id)
            return
        job.state = "queued"
        self.requests.request_resume(self.conn, job_id)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2))
    def retry(self, index: int) -> None:
        job_id, job = self.pick(index)
        if job.state not in ("failed", "cancelled") or job.done == len(job.steps):
            self.refused(self.requests.request_retry, job_id)
            return
        job.state = "queued"
        self.requests.request_retry(self.conn, job_id)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 2))
    def delete(self, index: int) -> None:
        job_id, job = self.pick(index)
        if job.state not in ("succeeded", "failed", "cancelled"):
            self.refused(self.requests.remove, job_id)
            return
        self.requests.remove(self.conn, job_id)
        shutil.rmtree(self.paths.run_dir(job_id))
        del self.model[job_id]
        try:
            read.get_job(self.conn, job_id)
        except NotFound:
            return
        raise AssertionError("a deleted job is still there")

    # deep states are rare when every draw is free: these lead to them
    @precondition(lambda self: self.index_in("queued") is not None)
    @rule()
    def claim_one(self) -> None:
        self.claim(self.index_in("queued"), 0)

    @precondition(lambda self: self.index_in("running", "stopping") is not None)
    @rule(pause=st.booleans())
    def ask_a_running_one(self, pause: bool) -> None:
        index = self.index_in("running", "stopping")
        if pause:
            self.pause(index)
        else:
            self.cancel(index, False)

    @precondition(lambda self: self.index_in("stopping", "running") is not None)
    @rule(outcome=st.sampled_from(OUTCOMES))
    def finish_one(self, outcome: str) -> None:
        self.finish(self.index_in("stopping", "running"), 0, outcome)

    def index_in(self, *states: str) -> int | None:
        """The first job in one of these states, as an index for ``pick``."""
        for index, job_id in enumerate(sorted(self.model)):
            if self.model[job_id].state in states:
                return index
        return None

    @rule()
    def reopen(self) -> None:
        self.conn.close()
        self.conn = open_store(self.paths.jobs_db)
        self.conn.execute("PRAGMA synchronous=OFF")

    def refused(self, request: object, job_id: str) -> None:
        assert callable(request)
        try:
            request(self.conn, job_id)
        except Conflict:
            return
        raise AssertionError(f"{request.__name__} was not refused")

    # -- invariants -------------------------------------------------------------------------------

    @invariant()
    def the_store_is_what_the_model_is(self) -> None:
        for job_id, job in self.model.items():
            view = read.get_job(self.conn, job_id)
            assert (view.state, view.attempt, view.want) == (job.state, job.attempt, job.want)
            assert (view.state is JobState.STOPPING) == (view.want is not None)
            ended = view.state in ("succeeded", "failed", "cancelled")
            assert (view.ended is not None) == ended

    @invariant()
    def steps_agree_with_their_job(self) -> None:
        for job_id, job in self.model.items():
            steps = read.list_steps(self.conn, job_id)
            states = [step.state for step in steps]
            assert states[: job.done] == [JobState.SUCCEEDED] * job.done
            running = states.count(JobState.RUNNING)
            assert running == int(job.state in ("running", "stopping"))
            if job.state == "queued":
                assert states[job.done :] == [JobState.QUEUED] * (len(states) - job.done)
            assert read.get_job(self.conn, job_id).steps_done == job.done

    @invariant()
    def attempts_are_counted_and_succeed_once(self) -> None:
        for job_id, job in self.model.items():
            attempts = read.list_attempts(self.conn, job_id)
            assert [a.number for a in attempts] == list(range(1, job.attempt + 1))
            open_attempts = [a for a in attempts if a.state == "running"]
            assert len(open_attempts) == int(job.state in ("running", "stopping"))
            for step in job.steps:
                done = [a for a in attempts if a.step == step and a.state == "succeeded"]
                assert len(done) == job.successes.get(step, 0) <= 1

    @invariant()
    def pages_hold_every_job_once(self) -> None:
        seen: list[str] = []
        key: str | None = None
        while True:
            page = read.list_jobs(self.conn, limit=2, before=key)
            seen += [view.id for view in page.jobs]
            key = page.next_key
            if key is None:
                break
        assert sorted(seen) == sorted(self.model)
        assert seen == sorted(seen, reverse=True)
