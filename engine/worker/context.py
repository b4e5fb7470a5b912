"""What a kind's run function is given: its parameters, its folders, and the ways to report.

The engine owns everything around it (locks, signals, fencing); a run function only computes,
reports progress, checkpoints when asked, and returns a ``StepResult``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError
from engine.paths import StatePaths

if TYPE_CHECKING:
    from engine.recipe.spec import StepSpec
    from engine.registry import Registry


#: Progress is for people: they see no more than a few lines a second, and a log that holds one
#: for each of a thousand tensors is read by every screen that follows.
PROGRESS_SECONDS = 0.25


class Stopped(ModelOpsError):
    """The engine asked for a stop (cancel or pause) and the step has saved what it must."""

    code = "stopped"


@dataclass(frozen=True)
class StepResult:
    """What a step hands to the steps after it.

    ``outputs`` keys are those of ``Kind.outputs``: artifact references are manifest ids
    (``sha256:<hex>``), numbers are floats, texts are strings. ``report`` is kept with the job and
    shown at its end: ``{"title", "columns", "rows", "notes"}`` per table.
    """

    outputs: Mapping[str, Any]
    report: tuple[Mapping[str, Any], ...] = ()
    peak_memory_bytes: int | None = None
    """Where the worker's own peak says too little: of all of a step's processes (on GPUs: of the
    fullest one)."""


@dataclass
class StepContext:
    """One attempt at a step, seen from inside the worker."""

    job_id: str
    job_name: str
    step: str
    attempt: int
    kind: str
    params: StepSpec
    paths: StatePaths
    work_dir: Path
    """Survives the attempts of this step: checkpoints and scratch. Empty at the first attempt."""
    recipe_sha256: str
    recipe_dir: Path | None
    """Folder of the recipe file; relative paths in it were made absolute at submit."""
    threads: int
    device: str
    """``cpu`` or ``cuda``; CUDA_VISIBLE_DEVICES already names the one GPU of the lane."""
    step_key: str = ""
    """The memo key of this step (kind, parameters, inputs, code version)."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _events_fd: int | None = None
    _told: tuple[tuple[Any, ...], float] | None = None
    """What the last written progress counted, and when (monotonic seconds)."""
    _untold: dict[str, Any] | None = None
    """The newest progress that came too soon after it."""

    @property
    def seed(self) -> int:
        """Seed for every random generator of the step."""
        return self.params.seed

    def event(self, event_type: str, **fields: Any) -> None:
        """Append one line to the job's ``events.jsonl`` (one O_APPEND write, never torn).

        See ARCHITECTURE.md ("Events") for the types and their fields.
        """
        self.tell_progress()
        self._write(self._record(event_type, fields))

    def _record(self, event_type: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "t": round(time.time(), 3),
            "attempt": self.attempt,
            "step": self.step,
            "type": event_type,
            **fields,
        }

    def _write(self, record: Mapping[str, Any]) -> None:
        line = (
            json.dumps(record, ensure_ascii=False, allow_nan=False, default=str) + "\n"
        ).encode()
        if self._events_fd is None:
            path = self.paths.job_events(self.job_id)
            self._events_fd = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        os.write(self._events_fd, line)

    def phase(self, name: str) -> None:
        """Say which part of the work has begun: ``loading model``, ``training``, ``saving``."""
        self.event("phase", name=name)

    def progress(self, done: float, total: float | None, unit: str, **fields: Any) -> None:
        """Report how far the step is (unit: steps, tokens, files, bytes), as often as it is known.

        Of what comes faster than ``PROGRESS_SECONDS``, only the newest is written: the first and
        the last of every count always, in their place among the other events.
        """
        record = self._record("progress", {"done": done, "total": total, "unit": unit, **fields})
        count, now = (unit, total, *sorted(fields)), time.monotonic()
        if self._told is not None and self._told[0] != count:
            self.tell_progress()
        elif self._told is not None and now - self._told[1] < PROGRESS_SECONDS and done != total:
            self._untold = record
            return
        self._untold, self._told = None, (count, now)
        self._write(record)

    def tell_progress(self) -> None:
        """Write the newest progress, where it was held back."""
        if self._untold is not None:
            record, self._untold = self._untold, None
            self._write(record)

    def note(self, text: str, level: str = "info") -> None:
        """A sentence for the person who watches; ``level`` is info or warning."""
        self.event("note", level=level, text=text)

    @property
    def should_stop(self) -> bool:
        """True once TERM arrived: save a checkpoint now, then ``raise_stopped()``."""
        return self._stop.is_set()

    def raise_stopped(self) -> None:
        """End the attempt because a stop was asked for; what is checkpointed is kept.

        Raises:
            Stopped: always.
        """
        raise Stopped("stopped on request")

    @property
    def checkpoints_dir(self) -> Path:
        """Home of the ``checkpoint-<n>`` folders; complete ones carry ``complete.json``."""
        return self.work_dir / "checkpoints"

    def registry(self) -> Registry:
        """The registry of this state directory (opened with the device key)."""
        from engine.registry import Registry

        return Registry.open(self.paths)
