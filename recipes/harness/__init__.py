"""Task suites in the format of EleutherAI's lm-evaluation-harness, run offline from a folder."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.harness.schema import HarnessSpec

KIND = Kind(
    name="lm-eval",
    summary="score a model on lm-eval tasks from a folder of YAML and rows, beside its base",
    model=HarnessSpec,
    run="recipes.harness.run:run",
    outputs={"score": "number", "base_score": "number", "report": "artifact"},
    lane="auto",
    check="recipes.harness.check:check",
    estimate=None,
    resumable=False,
    code=("recipes.loading", "recipes.evaluate", "engine.models"),
)
