"""What the bridge reads while the screens move on is told once, later: nothing gets lost."""

from __future__ import annotations

from typing import Any

import pytest
from textual.message import Message
from textual.message_pump import MessagePump

from engine.api.jobs import Jobs
from screens.bridge import Bridge
from screens.messages import JobChanged, JobEvents, JobsChanged
from tests.screens.seeded import Seed


class Ear(MessagePump):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Message] = []

    def post_message(self, message: Message) -> bool:
        self.heard.append(message)
        return True

    def all(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]


def leave_after(
    monkeypatch: pytest.MonkeyPatch, bridge: Bridge, name: str, by: str = "jobs_target"
) -> None:
    """Another screen is shown while the first answer of ``name`` is being read."""
    read = getattr(Jobs, name)

    def reading(self: Jobs, *words: Any, **more: Any) -> Any:
        answer = read(self, *words, **more)
        monkeypatch.setattr(Jobs, name, read)
        setattr(bridge, by, None)
        return answer

    monkeypatch.setattr(Jobs, name, reading)


@pytest.mark.parametrize("name", ["list", "events"])
def test_what_was_read_for_a_screen_that_was_left_is_told_when_it_is_back(
    seed: Seed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ear = Ear()
    bridge = Bridge(seed.workbench, ear)
    bridge.jobs_target = ear
    bridge.watch(seed.ids["house-style"])
    leave_after(monkeypatch, bridge, name)
    bridge._look()
    assert bridge.jobs_target is None
    kind = JobsChanged if name == "list" else JobEvents
    assert not ear.all(kind)
    bridge.jobs_target = ear
    bridge._events_at = 0.0
    bridge.refresh()
    bridge._look()
    (told,) = ear.all(kind)
    assert len(told.jobs if name == "list" else told.events) == (7 if name == "list" else 122)
    seed.close()


def test_a_job_watched_in_the_middle_of_a_look_is_read(seed: Seed) -> None:
    first, second = seed.ids["house-style"], seed.ids["night-run"]

    class Hurried(Bridge):
        """The cursor moves on between the bridge's look at what to do and the doing."""

        moves = 0
        _target: MessagePump | None = None

        @property
        def jobs_target(self) -> MessagePump | None:
            self.moves += 1
            if self.moves == 1:
                self.watch(second)
            return self._target

        @jobs_target.setter
        def jobs_target(self, target: MessagePump | None) -> None:
            self._target = target

    ear = Ear()
    bridge = Hurried(seed.workbench, ear)
    bridge.jobs_target = ear
    bridge.watch(first)
    bridge._dirty = False
    bridge._version = seed.workbench.jobs.changed()
    bridge._look()
    bridge._look()
    assert second in [told.job_id for told in ear.all(JobChanged)]
    seed.close()
