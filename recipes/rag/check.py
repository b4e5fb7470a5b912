"""What is wrong with a ``rag`` step before it runs: the folder, the model, the chunk sizes."""

from __future__ import annotations

from engine.data import resolve_data
from engine.errors import ModelOpsError
from engine.models import resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.rag.schema import RagSpec


def check(spec: RagSpec, context: CheckContext) -> list[Problem]:
    """Every mistake that can be seen without loading anything."""
    found: list[Problem] = []
    if not context.is_reference(spec.folder):
        try:
            place = resolve_data(spec.folder, context.paths).path
            if not place.is_dir():
                found.append(Problem(("folder",), f"{place} is not a folder"))
        except ModelOpsError as error:
            found.append(Problem(("folder",), str(error), error.hint))
    if not context.is_reference(spec.model):
        try:
            location = resolve_model(spec.model, context.paths)
            if not (location.path / "tokenizer.json").exists():
                found.append(
                    Problem(
                        ("model",),
                        f"{spec.model} is not an embedding model",
                        "the packaged one is all-minilm-l6-v2",
                    )
                )
        except ModelOpsError as error:
            found.append(Problem(("model",), str(error), error.hint))
    if spec.chunks.overlap >= spec.chunks.tokens:
        what = f"an overlap of {spec.chunks.overlap} does not fit chunks of {spec.chunks.tokens}"
        found.append(Problem(("chunks", "overlap"), what, "a quarter of chunks.tokens is usual"))
    return found
