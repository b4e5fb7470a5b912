"""Mistakes of an ``lm-eval`` step found before it is accepted: quick, and without torch."""

from __future__ import annotations

from importlib.util import find_spec

from engine.errors import ModelOpsError
from engine.models import resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.harness.schema import HarnessSpec
from recipes.harness.tasks import read_tasks


def check(spec: HarnessSpec, context: CheckContext) -> list[Problem]:
    """Every mistake that can be seen without loading anything."""
    problems = []
    if find_spec("lm_eval") is None:
        problems.append(
            Problem((), "lm-eval is not installed", "pip install 'modelops-tui[lm-eval]'")
        )
    for key, ref in (("model", spec.model), ("base", spec.base)):
        if ref is not None and not context.is_reference(ref):
            try:
                resolve_model(ref, context.paths)
            except ModelOpsError as error:
                problems.append(Problem((key,), str(error), error.hint))
    try:
        read_tasks(spec.place, spec.names)
    except ModelOpsError as error:
        key = "names" if spec.names and "there is no task " in str(error) else "tasks"
        problems.append(Problem((key,), str(error), error.hint))
    return problems
