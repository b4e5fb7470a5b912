"""``/api/jobs``: submit, look, follow, ask for a stop."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import Field

from engine.types.jobs import AttemptView, JobPage, JobState, JobView, StepView
from modelops_tui.gateway.events import SSE, all_events, job_events
from modelops_tui.gateway.place import (
    WHOLE,
    Given,
    JobId,
    Limit,
    Offset,
    Place,
    Text,
    body,
    group,
    plain,
)

#: At most this much of a log an answer.
LOG_BYTES = 1 << 20
_RECIPE = 'kind = "evaluate"\nmodel = "smollm2"\ndata = "house/heldout"\nmetric_rows = 1\n'
Since = Annotated[
    str, Header(pattern=r"^[0-9]{0,12}$", description="Where the client lost the stream.")
]


class Submission(Given):
    """A recipe to run."""

    model_config = body({"recipe": _RECIPE, "sets": ["metric_rows=2"]})
    recipe: Annotated[str, Field(max_length=1 << 20)]
    """Its TOML text."""
    sets: Annotated[list[str], Field(max_length=100, default_factory=list)]
    """Overrides such as ``train.lr=1e-4``."""
    priority: Annotated[int, Field(ge=-1000, le=1000), WHOLE] = 0
    fresh: bool = False
    """Compute every step again, whatever results are remembered."""


class Priority(Given):
    """A place in the queue."""

    model_config = body({"priority": 10})
    priority: Annotated[int, Field(ge=-1000, le=1000), WHOLE]


def routes(place: Place) -> APIRouter:
    """Everything about jobs."""
    router, jobs, gate = group("jobs"), place.bench.jobs, place.gate
    read, run = [gate.needs("read")], [gate.needs("run")]

    @router.get("/api/jobs", dependencies=read)
    def list_jobs(
        state: Annotated[list[JobState], Query(default_factory=list)],
        text: Text = "",
        limit: Limit = 100,
        before: Annotated[str, Query(max_length=15, pattern="^[0-9]*$")] = "",
    ) -> JobPage:
        """A page of jobs, newest first; `before` is the `next_key` of the page before."""
        return jobs.list(state or None, text, limit, before or None)

    @router.post("/api/jobs", status_code=201, dependencies=run)
    def submit(body: Submission) -> JobView:
        """Run a recipe (its TOML text). When this answers, the job survives a power cut."""
        plan = place.bench.recipes.prepare(body.recipe, body.sets)
        job = jobs.submit(plan, body.priority, fresh=body.fresh)
        if place.settings.start_engine:
            place.bench.system.ensure_engine()
        return job

    @router.get("/api/jobs/{job}", dependencies=read)
    def get_job(job: JobId) -> JobView:
        """One job, by its id, its number, or a beginning that only it has."""
        return jobs.get(job)

    @router.delete("/api/jobs/{job}", status_code=204, dependencies=run)
    def delete_job(job: JobId) -> None:
        """Forget an ended job (what it published stays)."""
        jobs.delete(job)

    @router.get("/api/jobs/{job}/steps", dependencies=read)
    def steps(job: JobId) -> list[StepView]:
        """Its steps in the order they run, with what they returned."""
        return list(jobs.steps(job))

    @router.get("/api/jobs/{job}/attempts", dependencies=read)
    def attempts(job: JobId) -> list[AttemptView]:
        """Its attempts, oldest first."""
        return list(jobs.attempts(job))

    @router.get("/api/jobs/{job}/plan", dependencies=read)
    def plan(job: JobId) -> dict[str, Any]:
        """What was resolved and frozen at submit."""
        value: dict[str, Any] = plain(jobs.plan(job))
        return value

    @router.post("/api/jobs/{job}/priority", dependencies=run)
    def priority(job: JobId, body: Priority) -> JobView:
        """Move a waiting job forward (higher) or back."""
        return jobs.set_priority(job, body.priority)

    _actions(router, place)
    _streams(router, place)
    return router


def _actions(router: APIRouter, place: Place) -> None:
    words = {
        "cancel": "TERM, the grace period, then KILL; a second cancel kills at once.",
        "pause": "Save a checkpoint, leave, free the device, keep the place in the queue.",
        "resume": "Put a paused job back to its place in the queue.",
        "retry": "Run a failed or cancelled job again; finished steps are kept.",
    }

    def action(name: str, text: str) -> None:
        @router.post(
            f"/api/jobs/{{job}}/{name}",
            name=f"{name}_job",
            description=text,
            dependencies=[place.gate.needs("run")],
        )
        def act(job: JobId) -> JobView:
            view: JobView = getattr(place.bench.jobs, name)(job)
            return view

    for name, text in words.items():
        action(name, text)


def _streams(router: APIRouter, place: Place) -> None:
    read, bench = [place.gate.needs("read")], place.bench

    @router.get(
        "/api/jobs/{job}/log", response_class=PlainTextResponse, responses=_LOG, dependencies=read
    )
    def log(job: JobId, offset: Offset = 0) -> Response:
        """The output of every attempt from a byte offset on, at most a megabyte.

        `X-Next-Offset` is where the next read starts.
        """
        data = b""
        path = bench.jobs.log_path(job)
        if path.exists():
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(LOG_BYTES)
        text = data.replace(b"\0", b"").decode("utf-8", "replace")
        return PlainTextResponse(text, headers={"x-next-offset": str(offset + len(data))})

    @router.get(
        "/api/jobs/{job}/events",
        response_class=StreamingResponse,
        responses=SSE,
        dependencies=read,
    )
    async def events(
        job: JobId, request: Request, offset: Offset = 0, last_event_id: Since = ""
    ) -> Response:
        """The job's events as server-sent events, until it is over (`event: end`)."""
        await asyncio.to_thread(bench.jobs.get, job)
        start = int(last_event_id) if last_event_id else offset
        stream = job_events(bench, job, start, place.settings.stream_s)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_LIVE)

    @router.get("/api/events", response_class=StreamingResponse, responses=SSE, dependencies=read)
    async def everything() -> Response:
        """Jobs and deployments as they change: each once as it is, then every change."""
        stream = all_events(bench, place.settings.stream_s)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_LIVE)


_LIVE = {"cache-control": "no-store", "x-accel-buffering": "no"}
_LOG: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "headers": {"x-next-offset": {"schema": {"type": "string", "pattern": "^[0-9]+$"}}},
    }
}
