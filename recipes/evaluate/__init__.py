"""Evaluation: what a model has learned, what it forgot, and how it compares."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.evaluate.schema import MEASURES, EvaluateSpec, plugged_metrics

KIND = Kind(
    name="evaluate",
    summary="measure a model: perplexity on held-out and neutral text, task scores, comparison",
    model=EvaluateSpec,
    run="recipes.evaluate.run:run",
    outputs={
        **dict.fromkeys((*plugged_metrics(), *MEASURES), "number"),
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
