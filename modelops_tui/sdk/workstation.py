"""One workstation in Python: ``Workbench`` with the few verbs a script wants, sync and async."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from engine.api import Workbench
from engine.errors import StepFailed
from engine.types.artifacts import ArtifactView
from engine.types.jobs import ENDED_STATES, JobState, JobView
from engine.types.serving import ChatMessage, ChatPiece, DeploymentView, Sampling

T = TypeVar("T")
Messages = Sequence[ChatMessage | Mapping[str, str]]

#: How often a followed job is looked at.
_LOOK_S = 0.2


class Workstation(Workbench):
    """Everything the command line can do, as typed Python.

    The subjects are attributes (``jobs``, ``recipes``, ``artifacts``, ``data``, ``kept``, ``rag``,
    ``serving``, ``backends``, ``system``); the methods here are what scripts use most. Errors are
    ``engine.errors.ModelOpsError`` with ``what``, ``why`` and ``hint``.

    Args:
        state_dir: the state directory (default: ``$MODELOPS_HOME``).
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End service processes and connections; jobs and deployments go on."""
        for subject in list(self.__dict__.values()):
            if callable(close := getattr(subject, "close", None)):
                close()

    # -- jobs -------------------------------------------------------------------------------------

    def run(self, recipe: Path | str, *sets: str, wait: bool = True, priority: int = 0) -> JobView:
        """Submit a recipe; by default wait for its end.

        Args:
            recipe: a file (``Path``), or the TOML text.
            sets: overrides such as ``"train.lr=1e-4"``.
            wait: return when it ended.
            priority: higher goes first.

        Raises:
            RecipeInvalid: with every mistake.
            StepFailed: it was waited for, and failed.
        """
        plan = self.recipes.prepare(recipe, sets)
        job = self.jobs.submit(plan, priority)
        self.system.ensure_engine()
        return self.wait(job.id) if wait else job

    def wait(self, job_id: str, timeout_s: float | None = None) -> JobView:
        """Wait until a job is over.

        Raises:
            StepFailed: it failed; ``why`` is the job's reason.
            TimeoutError: it is not over in time (it goes on).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.jobs.get(job_id)
            if job.state is JobState.FAILED:
                raise StepFailed(f"job {job.id} failed", job.reason, f"jobs log {job.id}")
            if job.state in ENDED_STATES:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job.id} is {job.state}")
            time.sleep(_LOOK_S)

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The events of a job from its beginning, until it is over."""
        offset = 0
        while True:
            over = self.jobs.get(job_id).state in ENDED_STATES
            page = self.jobs.events(job_id, offset)
            yield from page.events
            moved, offset = page.next_offset != offset, page.next_offset
            if over and not moved:
                return
            if not moved:
                time.sleep(_LOOK_S)

    def outputs(self, job_id: str) -> dict[str, Any]:
        """What the steps of a job returned: ``{"train.loss": 1.2, ...}``."""
        return {
            f"{step.name}.{name}": value
            for step in self.jobs.steps(job_id)
            for name, value in step.outputs.items()
        }

    # -- models -----------------------------------------------------------------------------------

    def promote(self, ref: str, stage: str, **options: Any) -> ArtifactView:
        """Move a version into a stage, through its gates."""
        self.artifacts.promote(ref, stage, **options)
        return self.artifacts.resolve(ref)

    def serve(self, ref: str, *, wait: bool = True, **settings: Any) -> DeploymentView:
        """Start a deployment (see ``serving.start``); by default wait until it answers."""
        view = self.serving.start(ref, **settings)
        return self.serving.wait_ready(view.name) if wait else view

    def stream(
        self, model: str, messages: Messages | str, sampling: Sampling | None = None
    ) -> Iterator[ChatPiece]:
        """Stream an answer of a deployment or of any model."""
        return self.serving.chat(model, _turns(messages), sampling)

    def chat(self, model: str, messages: Messages | str, sampling: Sampling | None = None) -> str:
        """The whole answer of a deployment or of any model."""
        return "".join(p.text for p in self.stream(model, messages, sampling) if p.kind == "text")

    def ask(self, index: str, question: str, **options: Any) -> Any:
        """Answer a question from an index: text, citations, sources."""
        answer = None
        for event in self.rag.ask(index, question, **options):
            answer = event.get("result", answer)
        return answer

    # -- async ------------------------------------------------------------------------------------

    def afollow(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """``follow`` for asyncio."""
        return in_thread(lambda: self.follow(job_id))

    def astream(
        self, model: str, messages: Messages | str, sampling: Sampling | None = None
    ) -> AsyncIterator[ChatPiece]:
        """``stream`` for asyncio."""
        return in_thread(lambda: self.stream(model, messages, sampling))

    def aask(self, index: str, question: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """An answer as it is written, for asyncio: ``sources``, ``phase`` and ``token`` events.

        The last item is ``{"result": Answer}``; the options are those of ``rag.ask``.
        """
        return in_thread(lambda: self.rag.ask(index, question, **options))


def _turns(messages: Messages | str) -> Messages:
    return [ChatMessage("user", messages)] if isinstance(messages, str) else messages


async def in_thread(make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Iterate a blocking iterator in a thread; leaving early closes it."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    left = threading.Event()

    def put(item: tuple[str, Any]) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            for value in make():
                if left.is_set():
                    return
                put(("value", value))
            put(("end", None))
        except BaseException as error:  # noqa: BLE001  it is raised again where it is awaited
            put(("error", error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            kind, value = await queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
