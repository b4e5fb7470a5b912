"""A plan in words: what each step does, takes from other steps, and changes of the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.kinds import load_kinds
from engine.recipe import refs
from engine.recipe.plan import Plan, PlannedStep
from engine.recipe.schema_view import schema_view
from engine.recipe.templates import toml_key, toml_value


def explain(plan: Plan) -> Iterator[str]:
    """Lines for a person, in the order in which the steps run."""
    count = "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"
    yield f"{plan.name}: {count}" + (f", picked by {plan.pick}" if plan.pick else "")
    for number, step in enumerate(plan.steps, 1):
        kind = load_kinds().get(step.kind)
        yield ""
        yield f"{number}. {step.name} ({step.kind}): {kind.summary}"
        if step.point is not None:
            point = ", ".join(f"{key} = {toml_value(value)}" for key, value in step.point.items())
            yield f"   point: {point}"
        taken = sorted({reference.text for reference in refs.find(step.params)})
        if taken:
            yield f"   takes: {', '.join(taken)}"
        for metric, gate in step.require.items():
            yield f"   only if: {metric} {gate}"
        for key, value in changed(step):
            yield f"   {key} = {toml_value(value)}"
        yield f"   gives: {', '.join(kind.outputs)}"
    if plan.data_versions:
        yield ""
        yield "inputs, as they are now:"
        for ref, version in sorted(plan.data_versions.items()):
            yield f"   {ref}  {version}"
    yield ""
    yield f"sha256 {plan.sha256}"


def changed(step: PlannedStep) -> Iterator[tuple[str, Any]]:
    """Dotted keys of a step that differ from the defaults of its kind."""
    for field in schema_view(load_kinds().get(step.kind).model).fields():
        value: Any = step.params
        for part in field.path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and value != field.default and value not in ({}, []):
            yield field.dotted, value


def plan_text(plan: Plan) -> str:
    """The resolved recipe as TOML: every step with every key, in the order they run."""
    lines = [f"# resolved from {plan.source_path or 'text'}, sha256 {plan.sha256}"]
    lines += ["recipe = 1", f"name = {toml_value(plan.name)}", 'kind = "pipeline"']
    if plan.pick:
        lines.append(f"# pick = {toml_value(plan.pick)}")
    for step in plan.steps:
        lines += ["", f"[steps.{toml_key(step.name)}]", f"uses = {toml_value(step.kind)}"]
        if step.needs:
            lines.append(f"# after {', '.join(step.needs)}")
        if step.require:
            lines.append(f"require = {toml_value(step.require)}")
        lines += _table(step.params, f"steps.{toml_key(step.name)}")
    return "\n".join(lines) + "\n"


def _table(table: dict[str, Any], prefix: str) -> list[str]:
    plain = {k: v for k, v in table.items() if not isinstance(v, dict) and v is not None}
    tables = {k: v for k, v in table.items() if isinstance(v, dict) and v}
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in plain.items()]
    for key, value in tables.items():
        lines += [f"[{prefix}.{toml_key(key)}]", *_table(value, f"{prefix}.{toml_key(key)}")]
    return lines
