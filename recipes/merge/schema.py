"""The keys of a ``merge`` step."""

from __future__ import annotations

from typing import Literal

from engine.recipe.spec import ModelRefStr, StepSpec


class MergeSpec(StepSpec):
    """Merges one adapter, or a chain of them."""

    kind: Literal["merge"] = "merge"
    model: ModelRefStr
    """The adapter: a registered one, or a PEFT folder whose base can be found."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """What the weights are stored in; the sum is computed in fp32."""
