"""Two jobs side by side: what was set otherwise, what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.types.jobs import JobView

Curve = tuple[tuple[float, float], ...]
"""``(done, value)``, by ``done``."""


@dataclass(frozen=True)
class JobsCompared:
    """The left job is the one that the right one is held against."""

    left: JobView
    right: JobView
    settings: tuple[tuple[str, Any, Any], ...]
    """Dotted keys of the resolved recipes and both values (None: not there); those that differ."""
    figures: tuple[tuple[str, float | None, float | None], ...]
    """Outputs that are numbers, losses, seconds, memory: ``train.loss``, ``train.seconds``."""
    artifacts: tuple[tuple[str, str | None, str | None], ...]
    """Outputs that are artifacts, by their ids."""
    loss: tuple[Curve, Curve]
    """Training loss of the step that reported last."""
    held_out: tuple[Curve, Curve]
    """Loss on held-out rows of that step."""
