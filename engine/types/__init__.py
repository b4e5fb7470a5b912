"""The data classes that cross layers: plain, frozen, without behaviour worth testing alone."""

from engine.types.jobs import (
    ACTIVE_STATES,
    ENDED_STATES,
    AttemptView,
    EventPage,
    JobPage,
    JobState,
    JobView,
    StepView,
)

__all__ = [
    "ACTIVE_STATES",
    "ENDED_STATES",
    "AttemptView",
    "EventPage",
    "JobPage",
    "JobState",
    "JobView",
    "StepView",
]
