"""Mistakes of an ``evaluate`` step found before it is accepted: quick, and without torch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from engine.data.formats import read_examples
from engine.data.rows import read_rows
from engine.data.source import resolve_data
from engine.errors import ModelOpsError
from engine.models import resolve_model
from engine.plugins import extensions
from engine.recipe.check import CheckContext, Problem
from recipes.evaluate.schema import METRICS, EvaluateSpec
from recipes.evaluate.scores import json_check, load_judge

_LOOKED_AT = 200
_SHAPES = frozenset({"chat", "completion", "text"})


def check(spec: EvaluateSpec, context: CheckContext) -> list[Problem]:
    """Every mistake that can be seen without loading anything."""
    problems = []
    for key, ref in (("model", spec.model), ("base", spec.base)):
        if ref is not None and not context.is_reference(ref):
            try:
                resolve_model(ref, context.paths)
            except ModelOpsError as error:
                problems.append(Problem((key,), str(error), error.hint))
    for key, ref, format_name in (
        ("data", spec.data, spec.format),
        ("neutral", spec.neutral, "text"),
    ):
        if ref is not None and not context.is_reference(ref):
            columns = spec.columns if key == "data" else {}
            problems += _check_data(key, ref, format_name, columns, context)
    if "judge" in spec.metrics and spec.judge is None:
        problems.append(Problem(("metrics",), "the metric judge needs a judge", "set judge = NAME"))
    for name in spec.metrics:
        if name not in METRICS:
            try:
                extensions("metric").get(name)
            except ModelOpsError as error:
                problems.append(Problem(("metrics",), str(error), error.hint))
    try:
        if spec.judge is not None:
            load_judge(spec.judge)
        if "json_schema" in spec.metrics:
            json_check(Path(spec.json_schema) if spec.json_schema else None)
    except ModelOpsError as error:
        key = "judge" if spec.judge is not None else "json_schema"
        problems.append(Problem((key,), str(error), error.hint))
    return problems


def _check_data(
    key: str, ref: str, format_name: str, columns: dict[str, str], context: CheckContext
) -> list[Problem]:
    try:
        location = resolve_data(ref, context.paths)
        rows = islice(read_rows(location.path, location.version), _LOOKED_AT)
        shapes = {e.shape for e in read_examples(rows, format_name, columns, location.name)}
    except ModelOpsError as error:
        return [Problem((key,), str(error), error.hint)]
    if shapes - _SHAPES:
        return [
            Problem(
                (key,),
                f"{', '.join(sorted(shapes))} rows have no text to predict",
                "give conversations, prompt and completion, or text",
            )
        ]
    return []
