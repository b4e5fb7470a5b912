"""Evaluation: what a model has learned, what it forgot, and how it compares."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.evaluate.schema import EvaluateSpec

KIND = Kind(
    name="evaluate",
    summary="measure a model: perplexity on held-out and neutral text, task scores, comparison",
    model=EvaluateSpec,
    run="recipes.evaluate.run:run",
    outputs={
        "perplexity": "number",
        "base_perplexity": "number",
        "neutral_perplexity": "number",
        "neutral_base_perplexity": "number",
        "loss": "number",
        "exact_match": "number",
        "rouge_l": "number",
        "json_valid": "number",
        "judge": "number",
        "report": "artifact",
    },
    lane="auto",
    check="recipes.evaluate.check:check",
    estimate=None,
    resumable=False,
    code=(
        "recipes.loading",
        "recipes.finetune",
        "engine.data.formats",
        "engine.data.masks",
        "engine.data.report",
        "engine.data.rows",
        "engine.models",
    ),
)
