"""Small plans for tests of the store and the engine, without parsing a recipe."""

from __future__ import annotations

from typing import Any

from engine.recipe.plan import Plan, PlannedStep


def Step(name: str, kind: str = "probe", *, lane: str = "cpu", **rest: Any) -> PlannedStep:
    """A planned step with the defaults of a test."""
    return PlannedStep(name=name, kind=kind, params=rest.pop("params", {}), lane=lane, **rest)


def plan(*steps: PlannedStep, name: str = "probe-job", **rest: Any) -> Plan:
    """A plan of these steps (one step of the probe kind without any)."""
    chosen = steps or (Step("probe"),)
    values: dict[str, Any] = {
        "pick": None,
        "source_text": "recipe = 1\n",
        "source_path": None,
        "sha256": "0" * 64,
        "code_versions": {},
        "data_versions": {},
        **rest,
    }
    kind = chosen[0].kind if len(chosen) == 1 else "pipeline"
    return Plan(name=name, kind=kind, steps=chosen, **values)
