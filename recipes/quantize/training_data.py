"""What a model was trained on, as a data reference: the calibration text nothing is nearer to."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError

if TYPE_CHECKING:
    from engine.types.artifacts import ArtifactView
    from engine.worker.context import StepContext

#: Relations to an artifact with the same training behind it.
_SAME_TRAINING = ("adapter", "registered_from", "quantized_from", "exported_from")
_DEEPEST = 16


def training_data(ctx: StepContext, manifest: str | None) -> str | None:
    """A reference to the training data of the model ``manifest``; None: none is known, or here.

    It is found by the model's own record, and by those of the adapter it was merged from and the
    like. A plain file is recorded by its name only (no path of a machine belongs into a record):
    then the recipe that trained, kept with its job, tells where it lies.
    """
    from engine.data.source import resolve_data

    missing: list[str] = []
    for view in _line(ctx, manifest):
        for ref in (*_of_job(ctx, view), *_recorded(view)):
            try:
                resolve_data(ref, ctx.paths)
            except ModelOpsError:
                missing.append(ref)
                continue
            return ref
    if missing:
        ctx.note(
            f"the training data {missing[-1]} is gone: the bundled mixed text calibrates",
            "warning",
        )
    return None


def _line(ctx: StepContext, manifest: str | None) -> Iterator[ArtifactView]:
    """The artifact and those with the same training, nearest first."""
    registry = ctx.registry()
    for _ in range(_DEEPEST):
        if manifest is None:
            return
        try:
            view = registry.resolve(manifest)
        except ModelOpsError:
            return
        yield view
        manifest = next((p for rel, p in view.parents if rel in _SAME_TRAINING), None)


def _recorded(view: ArtifactView) -> list[str]:
    """The names in the artifact's record, where a list is kept as its text."""
    text = str((view.run or {}).get("data", ""))
    try:
        value = ast.literal_eval(text) if text.startswith("[") else text
    except (ValueError, SyntaxError):
        return []
    return [str(name) for name in (value if isinstance(value, list) else [value]) if name]


def _of_job(ctx: StepContext, view: ArtifactView) -> list[str]:
    """The training rows that the artifact's own step was given, from the plan of its job."""
    run = view.run or {}
    job, step = str(run.get("job", "")), run.get("step")
    if not job or "/" in job:
        return []
    try:
        text = (ctx.paths.run_dir(job) / "plan.json").read_text(encoding="utf-8")
        steps: list[dict[str, Any]] = json.loads(text)["steps"]
    except (OSError, ValueError, KeyError):
        return []  # made on another machine, or the job was removed: its record is what is left
    params: dict[str, Any] = next((s["params"] for s in steps if s.get("name") == step), {})
    data = params.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    return [train] if isinstance(train, str) and "${" not in train else []
