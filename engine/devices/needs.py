"""What the steps of a plan need of a device, learned in the submitting process.

The client has the kinds loaded already (it has just checked the recipe); the engine never imports
them, which keeps it small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.kinds import Kind, load_kinds
from engine.paths import StatePaths
from engine.store.submit import StepNeeds

if TYPE_CHECKING:
    from engine.recipe.plan import Plan, PlannedStep


def plan_needs(plan: Plan, paths: StatePaths) -> dict[str, StepNeeds]:
    """The needs of every step by name."""
    kinds = load_kinds()
    return {step.name: step_needs(kinds.get(step.kind), step, paths) for step in plan.steps}


def step_needs(kind: Kind, step: PlannedStep, paths: StatePaths) -> StepNeeds:
    """What one step needs: its declared limit, else its kind's estimate where it can be made."""
    resources: dict[str, Any] = dict(step.params.get("resources") or {})
    device = str(resources.get("device", "auto"))
    declared = _declared(resources)
    return StepNeeds(
        shares=kind.shares,
        estimate_bytes=_estimated(kind, step, paths) if declared is None else declared,
        declared=declared is not None,
        device=device if device != "auto" else None,
        threads=int(resources.get("threads", 0)),
        signature=signature(step.kind, step.params),
    )


def signature(kind: str, params: Mapping[str, Any]) -> str:
    """Names the steps whose measured peak tells this one's: same kind and same settings."""
    told = {key: value for key, value in params.items() if key not in ("resources", "seed")}
    text = json.dumps([kind, told], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _declared(resources: Mapping[str, Any]) -> int | None:
    text = str(resources.get("memory", "auto"))
    if text != "auto":
        with suppress(ValueError):
            return parse_bytes(text)
    return None


def _estimated(kind: Kind, step: PlannedStep, paths: StatePaths) -> int | None:
    if kind.estimate is None or "${" in str(step.params):
        # a reference to an earlier step's output: there is nothing to look at yet
        return None
    from engine.devices.estimate import estimate_step

    estimate = estimate_step(kind, step.params, paths)
    return None if estimate is None else estimate.memory_bytes


def parse_bytes(text: str) -> int:
    """``"12 GiB"``, ``"800MB"``, ``"4096"`` as bytes.

    Raises:
        ValueError: not a size.
    """
    units = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
    cleaned = text.strip().lower().replace(" ", "")
    digits = cleaned.rstrip("bikmgt")
    suffix = cleaned[len(digits) :]
    if suffix.endswith("ib"):
        return int(float(digits) * 1024 ** ("kmgt".index(suffix[0]) + 1))
    return int(float(digits) * units[suffix.rstrip("b")])
