"""Jobs, steps, attempts and events as the screens and the CLI see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """The states of a job; queued, running, stopping and paused ones are not over yet."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


ACTIVE_STATES = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.STOPPING, JobState.PAUSED})
ENDED_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class JobView:
    """One accepted run of a recipe.

    Times are seconds since the epoch (wall clock, for people only: no decision rests on them).
    ``last_*`` mirror the newest progress event, so that a list never reads events.
    """

    id: str
    name: str
    kind: str
    state: JobState
    reason: str
    created: float
    started: float | None
    ended: float | None
    attempt: int
    priority: int
    lane: str
    step: str | None
    steps_total: int
    steps_done: int
    recipe_sha256: str
    source_path: str | None
    want: str | None = None
    """A request not yet carried out: ``cancel``, ``cancel-now`` or ``pause``."""
    last_done: float | None = None
    last_total: float | None = None
    last_unit: str | None = None
    last_loss: float | None = None
    last_rate: float | None = None
    """Tokens per second (or the unit of the step per second)."""
    last_eta_s: float | None = None
    last_memory_bytes: int | None = None
    last_message: str | None = None
    last_event_at: float | None = None
    error: dict[str, Any] | None = None


#: What a line of ``events.jsonl`` may be; a plugin's step may add types of its own.
EVENT_TYPES = (
    "begun",
    "ended",
    "phase",
    "progress",
    "metrics",
    "note",
    "checkpoint",
    "sample",
    "table",
    "artifact",
)


@dataclass(frozen=True)
class JobPage:
    """One page of a job list, newest first; ``next_key`` continues it (None: no more)."""

    jobs: tuple[JobView, ...]
    next_key: str | None


@dataclass(frozen=True)
class StepView:
    """A step of a job. ``outputs`` is what the step returned (artifact references and numbers)."""

    job_id: str
    name: str
    kind: str
    order: int
    state: JobState
    needs: tuple[str, ...]
    attempts: int
    memo_of: str | None
    """``job/step`` whose remembered result was used instead of running, or None."""
    reason: str
    started: float | None
    ended: float | None
    params: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    report: tuple[dict[str, Any], ...] = ()
    """Tables the step left for its reader: ``{"title", "columns", "rows", "notes"}`` each."""


@dataclass(frozen=True)
class AttemptView:
    """One try at a job's step, with how it ended (``exit`` is the shim's exit.json)."""

    job_id: str
    number: int
    step: str
    state: str
    began: float | None
    ended: float | None
    exit: dict[str, Any] | None


@dataclass(frozen=True)
class EventPage:
    """Events of one job from a byte offset; ``next_offset`` is where the next read starts."""

    events: tuple[dict[str, Any], ...]
    next_offset: int
