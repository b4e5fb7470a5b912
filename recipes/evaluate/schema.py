"""The keys of an ``evaluate`` step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.recipe.spec import DataRefStr, ModelRefStr, StepSpec
from recipes.finetune.schema import DataFormat

Metric = Literal["exact_match", "rouge_l", "json_schema", "judge"]


class EvaluateSpec(StepSpec):
    """Measures one model, beside another one where that is given."""

    kind: Literal["evaluate"] = "evaluate"
    model: ModelRefStr
    """The model to measure."""
    base: ModelRefStr | None = None
    """What it is compared with; by default an adapter's own base. Any model is allowed."""
    data: DataRefStr = "house/heldout"
    """Held-out rows: perplexity of the assistant's turns, and the references of the metrics."""
    format: DataFormat = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    """Renames columns to the names the format expects."""
    neutral: DataRefStr | None = "neutral"
    """Plain text that has nothing to do with the training: rising perplexity means forgetting."""
    rows: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Use at most this many rows."""
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] = 1024
    """Tokens per row; longer rows are cut and counted."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    metrics: list[Metric] = Field(default_factory=list)
    """Scores of generated answers against the rows' own answers."""
    json_schema: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Path of a JSON Schema that answers must satisfy (metric ``json_schema``)."""
    judge: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Name of a judge plugin (entry-point group ``modelops_tui.judges``)."""
    metric_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """How many rows are answered for the metrics."""
    samples: Annotated[int, Field(ge=0, le=50)] = 3
    """How many prompts are answered by both models and shown side by side."""
    max_new_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
