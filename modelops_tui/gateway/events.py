"""Server-sent events: of one job, and of everything that changes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from engine.api import Workbench
from engine.types.jobs import ENDED_STATES
from modelops_tui.gateway.place import plain

#: How a route that streams describes its answer: the schema is that of each event.
SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; the schema is that of each event.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string"},
                        "data": {"type": "string", "description": "A JSON document."},
                    },
                }
            }
        },
    }
}
#: How often a quiet job is looked at.
_LOOK_S = 0.25
#: A comment is sent after so long without an event: proxies and clients see that the line lives.
_QUIET_S = 15.0


def event(value: Any, *, name: str = "", at: int | str = "") -> bytes:
    """One event; ``at`` is what a client sends as ``Last-Event-ID`` to go on from here."""
    head = f"id: {at}\n" if at != "" else ""
    head += f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(plain(value), ensure_ascii=False)}\n\n".encode()


async def job_events(
    bench: Workbench, job: str, offset: int, seconds: float
) -> AsyncIterator[bytes]:
    """The events of a job from a byte offset on, until it is over or the time is.

    The last is ``end`` (the job's state) or ``pause`` (go on from its ``id``).
    """
    ends, quiet = time.monotonic() + seconds, time.monotonic()
    while True:
        view = await asyncio.to_thread(bench.jobs.get, job)
        page = await asyncio.to_thread(bench.jobs.events, job, offset)
        moved, offset = page.next_offset != offset, page.next_offset
        for record in page.events:
            yield event(record)
        if moved:
            quiet = time.monotonic()
            yield f"id: {offset}\n\n".encode()
        elif view.state in ENDED_STATES:
            yield event({"state": view.state, "reason": view.reason}, name="end", at=offset)
            return
        elif time.monotonic() >= ends:
            yield event({}, name="pause", at=offset)
            return
        else:
            if time.monotonic() - quiet >= _QUIET_S:
                quiet = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(_LOOK_S)


async def all_events(bench: Workbench, seconds: float) -> AsyncIterator[bytes]:
    """``job`` and ``deployment`` events: each thing once as it is, then whenever it changes."""
    ends, quiet = time.monotonic() + seconds, time.monotonic()
    known: dict[tuple[str, str], Any] = {}
    while True:
        moved = False
        for name, look in _looks(bench).items():
            for key, value in (await asyncio.to_thread(look)).items():
                if known.get((name, key)) != value:
                    known[name, key] = value
                    moved = True
                    yield event(value, name=name)
        if time.monotonic() >= ends:
            yield event({}, name="pause")
            return
        if moved:
            quiet = time.monotonic()
        elif time.monotonic() - quiet >= _QUIET_S:
            quiet = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(4 * _LOOK_S)


def _looks(bench: Workbench) -> dict[str, Callable[[], dict[str, Any]]]:
    def jobs() -> dict[str, Any]:
        return {
            job.id: {
                "id": job.id, "name": job.name, "state": job.state, "step": job.step,
                "done": job.last_done, "total": job.last_total, "unit": job.last_unit,
                "loss": job.last_loss, "reason": job.reason,
            }
            for job in bench.jobs.list(limit=100).jobs
        }  # fmt: skip

    def deployments() -> dict[str, Any]:
        return {
            view.name: {
                "name": view.name, "state": view.state, "reason": view.reason,
                "version": view.current.name if view.current else "", "url": view.url,
            }
            for view in bench.serving.list()
        }  # fmt: skip

    return {"job": jobs, "deployment": deployments}
