"""Fine-tuning: supervised (LoRA, DoRA, QLoRA, full, pre-training) and preference methods."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.finetune.schema import FinetuneSpec

KIND = Kind(
    name="finetune",
    summary="teach a model from your data: LoRA, QLoRA, DoRA, full, pre-training, preferences",
    model=FinetuneSpec,
    run="recipes.finetune.run:run",
    outputs={
        "model": "artifact",
        "merged": "artifact",
        "loss": "number",
        "eval_loss": "number",
        "tokens_per_s": "number",
    },
    lane="auto",
    check="recipes.finetune.check:check",
    estimate="recipes.finetune.together:estimate",
    actions={
        "data_report": "recipes.finetune.actions:data_report",
        "mask": "recipes.finetune.actions:mask",
        "preview": "recipes.finetune.actions:preview",
    },
    resumable=True,
    code=(
        "recipes.loading",
        "recipes.evaluate",
        "engine.data.formats",
        "engine.data.masks",
        "engine.data.report",
        "engine.data.rows",
        "engine.models",
    ),
)
