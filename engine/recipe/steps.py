"""The steps of a document: their names, kinds and keys, and what they refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import BadInput
from engine.kinds import Kind, KindRegistry
from engine.recipe import gates, refs
from engine.recipe.diagnostics import Collector
from engine.recipe.nearest import did_you_mean
from engine.recipe.overrides import RECIPE_KEYS, STEP_KEYS
from engine.recipe.positions import KeyPath
from engine.recipe.schema_view import schema_view

#: Names become folders under ``runs/<job>/steps`` and parts of references.
STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
MAX_STEPS = 200


@dataclass(frozen=True)
class DraftStep:
    """A step as written, before its references are resolved."""

    name: str
    kind: Kind | None
    """None where the kind is unknown (reported already)."""
    body: dict[str, Any]
    """The kind's own keys."""
    require: dict[str, str]
    where: KeyPath
    """Path of the step in the document."""
    point: dict[str, Any] | None = None
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """Document path of a value -> where the matrix has it."""
    waits_for: tuple[str, ...] = ()
    """Steps it needs besides those it refers to."""


def read_steps(
    document: Mapping[str, Any], kinds: KindRegistry, collector: Collector
) -> list[DraftStep]:
    """The document's steps in the order of the file; mistakes go to the collector."""
    kind_name = document.get("kind")
    if kind_name == "pipeline":
        return _pipeline_steps(document, kinds, collector)
    if not isinstance(kind_name, str):
        what = "`kind` is missing" if kind_name is None else "`kind` must be text"
        collector.add(("kind",), what, f"one of {', '.join([*sorted(kinds.kinds), 'pipeline'])}")
        return []
    kind = _kind(kind_name, ("kind",), kinds, collector, extra=("pipeline",))
    body = {key: value for key, value in document.items() if key not in RECIPE_KEYS}
    if "steps" in body and kind is not None and "steps" not in schema_view(kind.model).keys(()):
        collector.add(
            ("steps",), "[steps] belongs to a pipeline", 'write kind = "pipeline"', at="key"
        )
        body.pop("steps")
    require = _require(body.pop("require", None), ("require",), collector)
    if kind is None:
        return [DraftStep(kind_name, None, body, require, ())]
    for key in ("name", "description"):
        # the recipe's own name is also the name that a kind such as `register` publishes under
        if key in document and key in schema_view(kind.model).keys(()):
            body[key] = document[key]
    return [DraftStep(kind.name, kind, body, require, ())]


def _pipeline_steps(
    document: Mapping[str, Any], kinds: KindRegistry, collector: Collector
) -> list[DraftStep]:
    steps = document.get("steps")
    if not isinstance(steps, Mapping) or not steps:
        what = "a pipeline needs steps" if not steps else "`steps` must be a table"
        collector.add(("steps",), what, 'add [steps.train] with uses = "finetune"')
        return []
    found: list[DraftStep] = []
    for name, body in steps.items():
        where: KeyPath = ("steps", name)
        if not isinstance(body, Mapping):
            collector.add(where, f"step `{name}` must be a table", f"write [steps.{name}]")
            continue
        if not STEP_NAME.fullmatch(name):
            collector.add(
                where,
                f"`{name}` can't be a step's name",
                "letters, digits, - and _, beginning with a letter, at most 64",
                at="key",
            )
        if name in refs.RESERVED:
            collector.add(where, f"`{name}` means something else in references", at="key")
        own = {key: value for key, value in body.items() if key not in STEP_KEYS}
        uses = body.get("uses")
        kind = None
        if isinstance(uses, str):
            kind = _kind(uses, (*where, "uses"), kinds, collector)
        else:
            known = ", ".join(sorted(kinds.kinds))
            collector.add((*where, "uses"), f"step `{name}` does not say its kind: `uses`", known)
        require = _require(body.get("require"), (*where, "require"), collector)
        found.append(DraftStep(name, kind, own, require, where))
    return found


def _kind(
    name: str,
    where: KeyPath,
    kinds: KindRegistry,
    collector: Collector,
    extra: tuple[str, ...] = (),
) -> Kind | None:
    if name in kinds.kinds:
        return kinds.kinds[name]
    for broken in kinds.broken:
        if broken.name == name:
            collector.add(
                where, f'kind "{name}" could not be loaded', f"{broken.plugin}: {broken.reason}"
            )
            return None
    if name == "pipeline" and not extra:
        collector.add(where, "a pipeline can't be a step", "name its steps here instead")
        return None
    collector.add(where, f'there is no kind "{name}"', did_you_mean(name, [*kinds.kinds, *extra]))
    return None


def _require(value: Any, where: KeyPath, collector: Collector) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        collector.add(where, "`require` must be a table", 'require = { "check.loss" = "<= 2" }')
        return {}
    found: dict[str, str] = {}
    for metric, gate, path in _flat(value, (), where):
        try:
            if not isinstance(gate, str):
                raise BadInput(f"{gate!r} is no gate", hint='write text, such as "<= 12"')
            gates.parse(gate)
            found[metric] = gate
        except BadInput as error:
            collector.add(path, error.what, error.hint)
    return found


def _flat(
    value: Mapping[str, Any], prefix: tuple[str, ...], where: KeyPath
) -> Iterator[tuple[str, Any, KeyPath]]:
    """``check.perplexity = ...`` and ``"check.perplexity" = ...`` mean the same."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, (*prefix, key), (*where, key))
        else:
            yield ".".join((*prefix, key)), item, (*where, key)


def fill_vars(
    step: DraftStep, variables: Mapping[str, Any], collector: Collector, used: set[str]
) -> dict[str, Any]:
    """The step's keys with ``${vars.x}`` replaced, each with its type."""

    def give(reference: refs.Reference) -> Any:
        parts = reference.parts
        if parts[0] != "vars":
            return refs.KEEP
        value: Any = variables
        for depth, part in enumerate(parts[1:], 1):
            if not isinstance(value, Mapping) or part not in value:
                known = list(value) if isinstance(value, Mapping) else []
                collector.add(
                    (*step.where, *reference.path),
                    f"there is no variable `{'.'.join(parts[: depth + 1])}`",
                    did_you_mean(part, known) or "add it to [vars]",
                )
                return refs.KEEP
            value = value[part]
        if len(parts) > 1:
            used.add(parts[1])
        if not reference.whole and isinstance(value, (Mapping, list)):
            collector.add(
                (*step.where, *reference.path), f"`{reference.text}` is no text, number or flag"
            )
            return refs.KEEP
        return value

    return dict(refs.replace(step.body, give))


def references_of(step: DraftStep) -> list[str]:
    """Names of the steps that a step's keys and gates refer to, in order of appearance."""
    names: list[str] = []
    for reference in refs.find(step.body):
        if not reference.is_env and reference.parts[0] not in ("vars", "pick"):
            names.append(reference.parts[0])
    names += [metric.partition(".")[0] for metric in step.require]
    return list(dict.fromkeys(name for name in names if name != "pick"))


def check_references(
    step: DraftStep, steps: Mapping[str, DraftStep], collector: Collector
) -> set[KeyPath]:
    """Report references that lead nowhere or are of the wrong type.

    Args:
        step: a step with its vars filled in.
        steps: every step of the document by name.
        collector: takes the mistakes.

    Returns:
        Paths (relative to the step) of values that are a reference and nothing else, and stand
        where something else than text is expected: the engine fills them in later.
    """
    deferred: set[KeyPath] = set()
    view = schema_view(step.kind.model) if step.kind is not None else None
    for reference in refs.find(step.body):
        where = (*step.where, *reference.path)
        if reference.is_env or reference.parts[0] == "vars":
            continue
        kind_of = _output_type(reference.text, step, steps, where, collector)
        node = view.node(reference.path) if view is not None else None
        if view is None or node is None:
            continue
        types = view.types(node)
        wanted = view.reference_kind(node)
        if kind_of is not None and wanted in ("model", "data") and kind_of == "number":
            collector.add(
                where, f"`{reference.text}` is a number, this key takes {view.expected(node)}"
            )
        elif kind_of in ("artifact", "text") and types and types <= {"integer", "number"}:
            noun = "an artifact" if kind_of == "artifact" else "text"
            collector.add(
                where, f"`{reference.text}` is {noun}, this key takes {view.expected(node)}"
            )
        if reference.whole and types & {"integer", "number", "boolean"}:
            deferred.add(reference.path)
    for metric in step.require:
        where = (*step.where, "require", metric)
        kind_of = _output_type(metric, step, steps, where, collector, at_key=True)
        if kind_of not in (None, "number"):
            collector.add(where, f"`{metric}` is no number, a gate needs one", at="key")
    return deferred


def _output_type(
    text: str,
    step: DraftStep,
    steps: Mapping[str, DraftStep],
    where: KeyPath,
    collector: Collector,
    *,
    at_key: bool = False,
) -> str | None:
    """``artifact``, ``number`` or ``text``; None where the reference leads nowhere."""
    name, _, output = text.partition(".")
    at: Literal["key", "value"] = "key" if at_key else "value"
    others = [other for other in steps if other != step.name]
    if text.startswith("env:") or not re.fullmatch(r"[A-Za-z][\w-]*\.[\w.-]+", text):
        advice = "write ${step.output}, ${vars.name} or ${env:NAME}; $${ stands for the characters"
        collector.add(where, f"`${{{text}}}` is no reference", advice, at=at)
        return None
    if name == step.name:
        collector.add(where, f"step `{name}` refers to itself", at=at)
        return None
    if name not in steps:
        advice = (
            did_you_mean(name, [*others, "vars"]) if others else "this recipe has no other step"
        )
        collector.add(where, f"there is no step `{name}`", advice, at=at)
        return None
    kind = steps[name].kind
    if kind is None:
        return None
    if output not in kind.outputs:
        collector.add(
            where,
            f"step `{name}` ({kind.name}) has no output `{output}`",
            did_you_mean(output, kind.outputs),
            at=at,
        )
        return None
    return kind.outputs[output]
