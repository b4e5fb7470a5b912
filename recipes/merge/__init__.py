"""Merging: an adapter becomes part of its base, one model that needs no PEFT."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.merge.schema import MergeSpec

KIND = Kind(
    name="merge",
    summary="merge an adapter (or a PEFT folder) into its base: one whole, signed model",
    model=MergeSpec,
    run="recipes.merge.run:run",
    outputs={"model": "artifact"},
    lane="cpu",
    check="recipes.merge.check:check",
    estimate=None,
    resumable=False,
    code=("recipes.loading", "engine.models"),
)
