"""The keys of an ``evaluate`` step."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from engine.plugins import names
from engine.recipe.spec import DataRefStr, ModelRefStr, StepSpec
from recipes.finetune.schema import DataFormat

#: The metrics we bring; plugins bring more.
METRICS = ("exact_match", "rouge_l", "json_schema", "judge")


#: What a step returns besides: no metric of a plugin may be called so.
MEASURES = (
    *("perplexity", "base_perplexity", "neutral_perplexity", "neutral_base_perplexity", "loss"),
    *("exact_match", "rouge_l", "json_valid", "judge"),
)


def plugged_metrics() -> tuple[str, ...]:
    """The metrics that plugins bring, by name; none of them is imported."""
    return tuple(n for n in names("metric") if n not in {*METRICS, *MEASURES, "report"})


def _known_metric(name: str) -> str:
    known = (*METRICS, *plugged_metrics())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no metric {name!r}: there are {', '.join(known)}{advice}")
    return name


Metric = Annotated[str, AfterValidator(_known_metric)]


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
    """Scores of generated answers against the rows' own: ``exact_match``, ``rouge_l``,
    ``json_schema``, ``judge``, and what plugins bring (``plugin list``)."""
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
