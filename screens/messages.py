"""What the bridge tells the screens. High-rate messages replace their older selves in the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from engine.types.jobs import AttemptView, JobView, StepView
    from engine.types.system import EngineStatus


@dataclass
class JobsChanged(Message):
    """The list of jobs as asked for; ``more`` when older ones exist beyond it."""

    jobs: tuple[JobView, ...]
    more: bool

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, JobsChanged)


@dataclass
class JobChanged(Message):
    """The watched job with its steps and attempts; None when it is gone."""

    job_id: str
    job: JobView | None
    steps: tuple[StepView, ...] = ()
    attempts: tuple[AttemptView, ...] = ()

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, JobChanged) and message.job_id == self.job_id


@dataclass
class JobEvents(Message):
    """New events of the watched job; ``more`` when the next page follows at once."""

    job_id: str
    events: tuple[dict[str, Any], ...]
    more: bool


@dataclass
class EngineChanged(Message):
    """The engine started, stopped or was replaced."""

    status: EngineStatus

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, EngineChanged)


@dataclass
class BridgeTrouble(Message):
    """The job store can't be read; it is tried again."""

    what: str
    why: str
    hint: str
