"""Mistakes of a ``merge`` step found before it is accepted."""

from __future__ import annotations

from engine.errors import ModelOpsError
from engine.models import resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.merge.schema import MergeSpec


def check(spec: MergeSpec, context: CheckContext) -> list[Problem]:
    """Whether there is an adapter to merge."""
    if context.is_reference(spec.model):
        return []
    try:
        location = resolve_model(spec.model, context.paths)
    except ModelOpsError as error:
        return [Problem(("model",), str(error), error.hint)]
    if location.base is None:
        what = f"there is no adapter to merge: {location.name!r} is a whole model"
        return [Problem(("model",), what, "name a registered adapter or a PEFT folder")]
    return []
