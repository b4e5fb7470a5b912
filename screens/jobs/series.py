"""What a job's events add up to: the curve, the samples, the notes. Plain data, no Textual."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: Notes kept for the screen; the file has them all.
_NOTES = 200


@dataclass
class JobSeries:
    """Metrics are keyed by (step, done): a resumed attempt repeats a few of them."""

    loss: dict[tuple[str, float], float] = field(default_factory=dict)
    eval_loss: dict[tuple[str, float], float] = field(default_factory=dict)
    newest: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: int = 0
    last_checkpoint: float | None = None
    phase: str = ""

    def add(self, events: Iterable[dict[str, Any]]) -> bool:
        """Take events in; True when one of them changes the curve."""
        before = len(self.loss) + len(self.eval_loss)
        repeated = False
        for event in events:
            kind = event.get("type")
            if kind == "metrics":
                repeated = self._metrics(event) or repeated
            elif kind == "sample":
                self.samples.append(event)
            elif kind == "table":
                self.tables.append(event)
            elif kind == "artifact":
                self.artifacts.append(event)
            elif kind in ("note", "begun", "ended", "phase", "checkpoint"):
                self._milestone(str(kind), event)
        return repeated or len(self.loss) + len(self.eval_loss) != before

    def _milestone(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "phase":
            self.phase = str(event.get("name", ""))
        elif kind == "checkpoint":
            self.checkpoints += 1
            self.last_checkpoint = _real(event.get("done"))
        self.notes.append(event)
        del self.notes[:-_NOTES]

    def _metrics(self, event: dict[str, Any]) -> bool:
        done = _real(event.get("done"))
        if done is None:
            return False
        self.newest.update({k: v for k, v in event.items() if v is not None})
        key = (str(event.get("step", "")), done)
        repeated = key in self.loss
        for name, series in (("loss", self.loss), ("eval_loss", self.eval_loss)):
            value = _real(event.get(name))
            if value is not None:
                series[key] = value
        return repeated

    @property
    def steps(self) -> list[str]:
        """Steps that reported a loss, in the order they began."""
        return list(dict.fromkeys(step for step, _ in (*self.loss, *self.eval_loss)))

    def curve(self, step: str) -> list[tuple[float, float]]:
        """``(done, loss)`` of a step."""
        return [(done, value) for (name, done), value in self.loss.items() if name == step]

    def eval_points(self, step: str) -> list[tuple[float, float]]:
        """``(done, held-out loss)`` of a step."""
        return [(done, value) for (name, done), value in self.eval_loss.items() if name == step]


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)
