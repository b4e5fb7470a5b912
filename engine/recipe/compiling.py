"""From TOML to plan, in one pass that gathers every mistake before it refuses.

Nothing here imports torch: a check is asked for on every keystroke of an editor or a form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import BadInput, ModelOpsError, RecipeInvalid
from engine.kinds import Kind, KindRegistry, code_version, load_function, load_kinds
from engine.paths import StatePaths
from engine.recipe import graph, matrix, refs
from engine.recipe.check import CheckContext
from engine.recipe.diagnostics import Collector
from engine.recipe.freezing import absolute_paths, freeze_inputs, put_at
from engine.recipe.nearest import did_you_mean
from engine.recipe.overrides import PIPELINE_KEYS, RECIPE_KEYS, parse_set, put, resolve_path
from engine.recipe.plan import Plan, PlannedStep, content_hash
from engine.recipe.positions import KeyPath, find_positions
from engine.recipe.reading import Source, parse, read_source
from engine.recipe.schema_view import schema_view
from engine.recipe.steps import (
    MAX_STEPS,
    DraftStep,
    check_references,
    fill_vars,
    read_steps,
    references_of,
)
from engine.recipe.validating import validate_step, value_at

#: The grammar's version, written as ``recipe = 1``.
GRAMMAR = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def prepare_plan(
    source: Path | str,
    sets: Sequence[str],
    paths: StatePaths | None,
    source_path: Path | None,
) -> Plan:
    """See ``engine.recipe.prepare``."""
    text = read_source(source, source_path)
    document = parse(text)
    collector = Collector(text, find_positions(text.text))
    kinds = load_kinds()
    _override(document, sets, kinds, collector)
    _check_numbers(document, (), collector)
    name = _recipe_keys(document, text, collector)
    steps = read_steps(document, kinds, collector)
    axes = _axes(document, kinds, collector)
    pick = _pick(document, steps, bool(axes), collector)
    variables = _variables(document, collector)
    _check_cycles(steps, collector)
    _refuse_if_wrong(text, collector, only_if=not steps)
    used = {str(axis.target[1]) for axis in axes if axis.target[0] == "vars" and axis.target[1:]}
    expanded = matrix.expand(steps, axes, pick, variables, collector)
    drafts = [replace(step, body=fill_vars(step, own, collector, used)) for step, own in expanded]
    _unused_variables(variables, used, collector)
    compiler = _Compiler(text, steps, paths or StatePaths.default(), collector)
    planned = compiler.plan_steps(drafts)
    _refuse_if_wrong(text, collector)
    code = {s.kind.name: code_version(s.kind) for s in steps if s.kind is not None}
    return Plan(
        name=name,
        kind=str(document["kind"]),
        steps=planned,
        pick=pick,
        source_text=text.text,
        source_path=str(text.path) if text.path else None,
        sha256=content_hash(name, planned, pick, code, compiler.versions),
        code_versions=code,
        data_versions=compiler.versions,
        sets=tuple(sets),
        warnings=collector.warnings,
    )


def _refuse_if_wrong(source: Source, collector: Collector, *, only_if: bool = True) -> None:
    errors = collector.errors
    if errors and only_if:
        count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        raise RecipeInvalid(f"{source.label} has {count}", errors)


# -- the recipe's own keys ----------------------------------------------------------------------


def _override(
    document: dict[str, Any], sets: Sequence[str], kinds: KindRegistry, collector: Collector
) -> None:
    """Apply ``--set`` values; where one stands, errors point into it."""
    overrides = dict(collector.overrides)
    parsed = [parse_set(text) for text in sets]
    # `--set kind=...` decides what the other keys mean, so it goes first
    for item in sorted(parsed, key=lambda s: s.path != ("kind",)):
        path = resolve_path(item.path, document, kinds.kinds)
        if document.get("kind") == "pipeline" and path[0] not in PIPELINE_KEYS:
            steps = document.get("steps")
            known = [*RECIPE_KEYS, *(steps if isinstance(steps, Mapping) else ())]
            raise BadInput(
                f"--set {item.text!r}: there is no step `{path[0]}`",
                hint=did_you_mean(str(path[0]), known),
            )
        try:
            put(document, path, item.value)
        except BadInput as error:
            raise BadInput(f"--set {item.text!r} can't be applied", why=error.what) from error
        overrides = {key: o for key, o in overrides.items() if key[: len(path)] != path}
        overrides[path] = item.override
    collector.overrides = overrides


def _check_numbers(value: Any, path: KeyPath, collector: Collector) -> None:
    """TOML knows nan and inf; JSON, and with it the store, does not."""
    if isinstance(value, float) and not math.isfinite(value):
        collector.add(path, f"`{path[-1]}` is {value}: a finite number is needed")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        collector.add(path, f"`{path[-1]}` does not fit in 64 bits")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers(item, (*path, key), collector)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_numbers(item, (*path, index), collector)


def _recipe_keys(document: Mapping[str, Any], source: Source, collector: Collector) -> str:
    """Check the keys that every recipe has.

    Returns:
        The recipe's name: its own, else the file's, else its kind.
    """
    grammar = document.get("recipe", GRAMMAR)
    if grammar != GRAMMAR or isinstance(grammar, bool):
        later = isinstance(grammar, int) and grammar > GRAMMAR
        advice = "this program is too old for it" if later else f"write recipe = {GRAMMAR}"
        collector.add(("recipe",), f"`recipe` is the grammar's version, {GRAMMAR}", advice)
    if "description" in document and not isinstance(document["description"], str):
        collector.add(("description",), "`description` must be text")
    if document.get("kind") == "pipeline":
        for key in document:
            if key not in PIPELINE_KEYS:
                advice = did_you_mean(key, PIPELINE_KEYS)
                steps = document.get("steps")
                known = isinstance(steps, Mapping) and key in steps
                if known or (isinstance(document[key], Mapping) and "uses" in document[key]):
                    advice = f"write [steps.{key}]"
                collector.add((key,), f"unknown key `{key}` in a pipeline", advice, at="key")
    name = document.get("name")
    if name is None:
        fallback = source.path.stem if source.path is not None else str(document.get("kind"))
        slug = re.sub(r"[^a-z0-9._-]+", "-", fallback.lower()).strip("-._")[:64]
        return slug or "recipe"
    if not isinstance(name, str):
        collector.add(("name",), f"`name` is {name!r}, it must be text")
    elif document.get("kind") != "register" and not _NAME.fullmatch(name):
        slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64]
        advice = "small letters, digits, dots, - and _; at most 64 characters"
        collector.add(
            ("name",),
            f"\"{name}\" can't be a recipe's name",
            advice + (f': "{slug}"' if slug else ""),
        )
    return str(name)


def _variables(document: Mapping[str, Any], collector: Collector) -> Mapping[str, Any]:
    variables = document.get("vars", {})
    if not isinstance(variables, Mapping):
        collector.add(("vars",), "`vars` must be a table")
        return {}
    for reference in refs.find(variables):
        if not reference.is_env:
            collector.add(
                ("vars", *reference.path),
                "a variable can hold ${env:NAME}, no other reference",
            )
    return variables


def _unused_variables(variables: Mapping[str, Any], used: set[str], collector: Collector) -> None:
    for name in variables:
        if name not in used:
            collector.add(
                ("vars", name), f"the variable `{name}` is not used", at="key", severity="warning"
            )


def _axes(
    document: Mapping[str, Any], kinds: KindRegistry, collector: Collector
) -> list[matrix.Axis]:
    table = document.get("matrix", {})
    if not isinstance(table, Mapping):
        collector.add(("matrix",), "`matrix` must be a table", '"train.lr" = [1e-4, 2e-4]')
        return []
    axes: list[matrix.Axis] = []
    for label, values, where in matrix.flat_axes(table):
        if label == "pick":
            continue
        if not isinstance(values, list) or not values:
            collector.add(
                where, f"`{label}` needs a list of values", f'"{label}" = [first, second]'
            )
            continue
        if any(values[i] in values[:i] for i in range(len(values))):
            collector.add(where, f"`{label}` has a value twice")
        try:
            target = resolve_path(tuple(label.split(".")), document, kinds.kinds)
        except BadInput as error:
            collector.add(where, error.what, error.hint, at="key")
            continue
        axes.append(matrix.Axis(label, target, tuple(values), where))
    for i, axis in enumerate(axes):
        if any(other.target == axis.target for other in axes[:i]):
            collector.add(axis.where, f"`{axis.label}` is varied twice", at="key")
    return axes


def _pick(
    document: Mapping[str, Any], steps: Sequence[DraftStep], has_axes: bool, collector: Collector
) -> str | None:
    """The pick rule, from the top or from inside ``[matrix]`` (where people write it)."""
    table = document.get("matrix", {})
    inner = table.get("pick") if isinstance(table, Mapping) else None
    inner = inner if not isinstance(inner, (list, Mapping)) else None
    value = document.get("pick", inner)
    if value is None:
        return None
    where: KeyPath = ("pick",) if "pick" in document else ("matrix", "pick")
    if "pick" in document and inner is not None:
        collector.add(("matrix", "pick"), "`pick` is given twice", at="key")
    if not isinstance(value, str):
        collector.add(where, "`pick` must be text", 'pick = "min check.perplexity"')
        return None
    if not has_axes:
        collector.add(
            where, "`pick` chooses among the points of a [matrix]; there is none", at="key"
        )
        return None
    try:
        return matrix.check_pick(value, steps)
    except BadInput as error:
        collector.add(where, error.what, error.hint)
        return None


def _check_cycles(steps: Sequence[DraftStep], collector: Collector) -> None:
    if len(steps) > MAX_STEPS:
        collector.add(("steps",), f"{len(steps)} steps; at most {MAX_STEPS} are allowed", at="key")
        return
    cycle = graph.find_cycle({s.name: [n for n in references_of(s) if n != s.name] for s in steps})
    if cycle:
        collector.add(
            ("steps", cycle[0]), f"the steps wait for each other: {' -> '.join(cycle)}", at="key"
        )


# -- the steps --------------------------------------------------------------------------------


class _Compiler:
    """Turns draft steps into planned ones."""

    def __init__(
        self, source: Source, steps: Sequence[DraftStep], paths: StatePaths, collector: Collector
    ) -> None:
        self.source = source
        self.written = {step.name: step for step in steps}
        self.paths = paths
        self.collector = collector
        self.versions: dict[str, str] = {}

    def plan_steps(self, drafts: Sequence[DraftStep]) -> tuple[PlannedStep, ...]:
        """The planned steps in an order in which they can run."""
        planned: dict[str, PlannedStep] = {}
        for draft in drafts:
            self.collector.origins = draft.origins
            step = self._plan_step(draft)
            if step is not None:
                planned[step.name] = step
        self.collector.origins = {}
        needs = {name: step.needs for name, step in planned.items()}
        return tuple(planned[name] for name in graph.order(needs))

    def _plan_step(self, draft: DraftStep) -> PlannedStep | None:
        kind = draft.kind
        deferred = check_references(_as_written(draft), self.written, self.collector)
        if kind is None:
            return None
        view = schema_view(kind.model)
        body = draft.body
        absolute_paths(body, view, self.source.folder)
        spec = validate_step(kind, body, draft.where, self.collector, deferred)
        if spec is None:
            # the kind's check needs a whole spec; what the step names is looked up all the same,
            # so that a missing model is reported together with the keys that are wrong
            freeze_inputs(body, view, draft.where, self.paths, self.collector)
            return None
        params: dict[str, Any] = spec.model_dump(mode="json", exclude={"kind"})
        for path in deferred:
            put_at(params, path, value_at(body, path))
        if not deferred:
            self._check(kind, spec, draft)
        self.versions.update(freeze_inputs(params, view, draft.where, self.paths, self.collector))
        needs = [name for name in references_of(draft) if name != draft.name]
        return PlannedStep(
            name=draft.name,
            kind=kind.name,
            params=params,
            needs=tuple(dict.fromkeys([*needs, *draft.waits_for])),
            require=draft.require,
            lane=_lane(kind, params),
            point=draft.point,
        )

    def _check(self, kind: Kind, spec: Any, draft: DraftStep) -> None:
        """Run the kind's own check and give its problems their place."""
        if kind.check is None:
            return
        others = {
            name: dict(step.kind.outputs)
            for name, step in self.written.items()
            if step.kind is not None and name != draft.name
        }
        context = CheckContext(self.paths, self.source.folder, draft.name, others)
        try:
            problems = load_function(kind.check)(spec, context)
        except ModelOpsError as error:
            advice = ". ".join(part for part in (error.why, error.hint) if part)
            self.collector.add(draft.where, error.what, advice)
            return
        except Exception as error:  # noqa: BLE001  a plugin's check may raise anything: it is named
            what = f"the check of kind {kind.name} failed: {type(error).__name__}: {error}"
            self.collector.add(draft.where, what, f"this is a fault of {kind.check}")
            return
        for problem in problems:
            path = (*draft.where, *problem.path)
            at = "key" if "unknown" in problem.what else "value"
            if not self.collector.has_error_at(path) or problem.severity == "warning":
                self.collector.add(
                    path,
                    problem.what,
                    problem.advice,
                    at="key" if at == "key" else "value",
                    severity=problem.severity,
                )


def _as_written(draft: DraftStep) -> DraftStep:
    """The step with references as the file has them, without points and picks."""

    def text(reference: str) -> str:
        first, _, rest = reference.removeprefix("pick.").partition(".")
        return f"{first.partition('@')[0]}.{rest}"

    def give(reference: refs.Reference) -> Any:
        if reference.is_env or reference.parts[0] == "vars" or "." not in reference.text:
            return refs.KEEP
        return f"${{{text(reference.text)}}}"

    return replace(
        draft,
        name=draft.name.partition("@")[0],
        body=dict(refs.replace(draft.body, give)),
        require={text(metric): gate for metric, gate in draft.require.items()},
    )


def _lane(kind: Kind, params: Mapping[str, Any]) -> str:
    """The lane a step asks for: its ``resources.device``, else its kind's."""
    resources = params.get("resources")
    device = str(resources.get("device", "auto")) if isinstance(resources, Mapping) else "auto"
    if device == "auto":
        return kind.lane
    return "cpu" if device == "cpu" else "gpu"
