"""Sweeps: ``[matrix]`` copies the steps that its keys change, up to the metric of ``pick``.

With ``pick = "min check.perplexity"`` a point has copies of the steps that depend on a matrix key
and that the metric needs (``train@1``, ``check@1``, ``train@2``, ...). Every other step runs once;
where it refers to a copied step it gets the picked point's output: its references become
``${pick.train.model}`` and it waits for every point. Without ``pick`` all steps that depend on a
matrix key are copied.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import BadInput
from engine.recipe import graph, picks, refs
from engine.recipe.diagnostics import Collector
from engine.recipe.nearest import did_you_mean
from engine.recipe.overrides import RECIPE_KEYS, put
from engine.recipe.positions import KeyPath
from engine.recipe.steps import MAX_STEPS, DraftStep, references_of


@dataclass(frozen=True)
class Axis:
    """One key of the matrix."""

    label: str
    """As the recipe writes it: ``train.lr``."""
    target: KeyPath
    """Full path of the key in the document."""
    values: tuple[Any, ...]
    where: KeyPath
    """Path of the list in ``[matrix]``."""


def flat_axes(
    value: Mapping[str, Any], where: KeyPath = ("matrix",)
) -> Iterator[tuple[str, Any, KeyPath]]:
    """``(label, values, path)``: quoted and plain dotted keys mean the same."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            for label, values, path in flat_axes(item, (*where, key)):
                yield f"{key}.{label}", values, path
        else:
            yield key, item, (*where, key)


def expand(
    steps: Sequence[DraftStep],
    axes: Sequence[Axis],
    pick: str | None,
    variables: Mapping[str, Any],
    collector: Collector,
) -> list[tuple[DraftStep, Mapping[str, Any]]]:
    """Every step that will run, with the variables of its point.

    Mistakes go to the collector; the steps are then returned without points.
    """
    plain: list[tuple[DraftStep, Mapping[str, Any]]] = [(step, variables) for step in steps]
    if not axes:
        return plain
    before = len(collector.errors)
    needs = {step.name: references_of(step) for step in steps}
    varied = {axis.label: _varied(axis, steps, variables, collector) for axis in axes}
    copied = graph.descendants(needs, set().union(*varied.values()))
    picked_step: str | None = None
    if pick is not None:
        picked_step = picks.parse(pick)[1]
        wanted = graph.ancestors(needs, picked_step)
        for axis in axes:
            aside = varied[axis.label] - wanted
            if aside:
                collector.add(
                    axis.where,
                    f"`{axis.label}` has no influence on the pick `{pick}`",
                    f"step `{sorted(aside)[0]}` does not come before `{picked_step}`",
                    at="key",
                )
        copied &= wanted
    points = list(itertools.product(*(range(len(axis.values)) for axis in axes)))
    total = len(points) * len(copied) + len(steps) - len(copied)
    if total > MAX_STEPS:
        collector.add(
            ("matrix",), f"{len(points)} points make {total} steps, at most {MAX_STEPS} are allowed"
        )
    if len(collector.errors) > before:
        return plain
    try:
        expanded = _copies(steps, axes, points, copied, variables)
    except BadInput as error:
        # something that should be a table is none: also reported by the step's own validation
        collector.add(("matrix",), error.what, at="key")
        return plain
    waits = tuple(f"{picked_step}@{n}" for n in range(1, len(points) + 1)) if picked_step else ()
    for step in steps:
        if step.name not in copied:
            expanded.append((_after(step, copied, len(points), waits), variables))
    return expanded


def _copies(
    steps: Sequence[DraftStep],
    axes: Sequence[Axis],
    points: Sequence[tuple[int, ...]],
    copied: set[str],
    variables: Mapping[str, Any],
) -> list[tuple[DraftStep, Mapping[str, Any]]]:
    """The copied steps of every point, each with its point's variables.

    Raises:
        BadInput: a matrix key leads through something that is no table.
    """
    made: list[tuple[DraftStep, Mapping[str, Any]]] = []
    for number, choice in enumerate(points, 1):
        own_variables = copy.deepcopy(dict(variables))
        for axis, index in zip(axes, choice, strict=True):
            if axis.target[0] == "vars":
                put(own_variables, axis.target[1:], axis.values[index])
        for step in steps:
            if step.name in copied:
                copy_of = _copy(step, number, axes, choice, copied)
                made.append((copy_of, own_variables))
    return made


def _varied(
    axis: Axis, steps: Sequence[DraftStep], variables: Mapping[str, Any], collector: Collector
) -> set[str]:
    """The steps whose keys an axis changes."""
    head = axis.target[0]
    if head == "vars":
        name = str(axis.target[1]) if len(axis.target) > 1 else ""
        if name not in variables:
            advice = did_you_mean(name, variables) or "add it to [vars]"
            collector.add(axis.where, f"there is no variable `{name}`", advice, at="key")
            return set()
        users = {
            step.name
            for step in steps
            for reference in refs.find(step.body)
            if reference.parts[:2] == ("vars", name)
        }
        if not users:
            collector.add(axis.where, f"no step uses `vars.{name}`", at="key")
        return users
    names = {step.name: step for step in steps}
    if head == "steps" and len(axis.target) > 2 and axis.target[1] in names:
        if axis.target[2] in ("uses", "require"):
            collector.add(axis.where, f"`{axis.target[2]}` can't be varied", at="key")
            return set()
        return {str(axis.target[1])}
    single = len(steps) == 1 and steps[0].where == ()
    if single and head not in RECIPE_KEYS:
        return {steps[0].name}
    shown = str(axis.target[1]) if head == "steps" and len(axis.target) > 1 else str(head)
    collector.add(
        axis.where,
        f"`{axis.label}` is no key that can be varied",
        did_you_mean(shown, names) or "name a key of a step, such as train.lr",
        at="key",
    )
    return set()


def _copy(
    step: DraftStep, number: int, axes: Sequence[Axis], choice: Sequence[int], copied: set[str]
) -> DraftStep:
    body = copy.deepcopy(step.body)
    origins: dict[KeyPath, KeyPath] = {}
    for axis, index in zip(axes, choice, strict=True):
        if axis.target[: len(step.where)] == step.where and axis.target[0] != "vars":
            path = axis.target[len(step.where) :]
            put(body, path, copy.deepcopy(axis.values[index]))
            origins[axis.target] = (*axis.where, index)

    def give(reference: refs.Reference) -> Any:
        name, *rest = reference.parts
        return f"${{{'.'.join([f'{name}@{number}', *rest])}}}" if name in copied else refs.KEEP

    require = {
        (f"{name}@{number}.{rest}" if name in copied else metric): gate
        for metric, gate in step.require.items()
        for name, _, rest in [metric.partition(".")]
    }
    point = {axis.label: axis.values[index] for axis, index in zip(axes, choice, strict=True)}
    return replace(
        step,
        name=f"{step.name}@{number}",
        body=dict(refs.replace(body, give)),
        require=require,
        point=point,
        origins=origins,
    )


def _after(step: DraftStep, copied: set[str], points: int, waits: tuple[str, ...]) -> DraftStep:
    """A step that runs once: what it takes from a copied step comes from the picked point."""
    used: list[str] = []

    def give(reference: refs.Reference) -> Any:
        if reference.parts[0] not in copied:
            return refs.KEEP
        used.append(reference.parts[0])
        return f"${{pick.{reference.text}}}"

    body = dict(refs.replace(step.body, give))
    require: dict[str, str] = {}
    for metric, gate in step.require.items():
        name = metric.partition(".")[0]
        if name in copied:
            used.append(name)
            metric = f"pick.{metric}"
        require[metric] = gate
    if not used:
        return step
    every = [f"{name}@{n}" for name in dict.fromkeys(used) for n in range(1, points + 1)]
    return replace(
        step, body=body, require=require, waits_for=tuple(dict.fromkeys([*every, *waits]))
    )


def check_pick(pick: str, steps: Sequence[DraftStep]) -> str:
    """``pick`` in its full form (``min finetune.eval_loss`` for ``min eval_loss``).

    Raises:
        BadInput: it is not written right, or names no number of a step.
    """
    words = pick.split()
    if len(words) == 2 and "." not in words[1] and len(steps) == 1:
        pick = f"{words[0]} {steps[0].name}.{words[1]}"
    direction, name, output = picks.parse(pick)
    by_name = {step.name: step for step in steps}
    if name not in by_name:
        raise BadInput(f"there is no step `{name}`", hint=did_you_mean(name, by_name))
    kind = by_name[name].kind
    if kind is not None and kind.outputs.get(output) != "number":
        numbers = [key for key, what in kind.outputs.items() if what == "number"]
        raise BadInput(
            f"step `{name}` ({kind.name}) has no number `{output}`",
            hint=did_you_mean(output, numbers),
        )
    return f"{direction} {name}.{output}"
