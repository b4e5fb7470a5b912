"""A ``quantize`` step run in this process, with a real state directory and registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.paths import StatePaths
from engine.worker.context import StepContext
from recipes.quantize.schema import QuantizeSpec
from tests.support.tiny_model import chat_rows, write_jsonl


def context(home: Path, spec: QuantizeSpec, *, job: str = "j1") -> StepContext:
    """The context of the first attempt of a job's step under ``home``."""
    paths, step = StatePaths(home).ensure(), "shrink"
    paths.run_dir(job).mkdir(parents=True, exist_ok=True)
    work = paths.step_work(job, step)
    work.mkdir(parents=True, exist_ok=True)
    return StepContext(job, "job", step, 1, "quantize", spec, paths, work, "0" * 64, None, 1, "cpu")


def spec_for(model: Path | str, data: Path, **more: Any) -> QuantizeSpec:
    """A small recipe: short texts, no neutral text."""
    values: dict[str, Any] = {
        "model": str(model),
        "levels": ["Q4_K_M", "Q8_0"],
        "eval": {
            "data": str(data),
            "neutral": None,
            "tokens": 512,
            "window": 128,
            "prompts": 2,
            "prompt_tokens": 8,
        },
        "calibration": {"data": str(data), "tokens": 512, "window": 128},
        **more,
    }
    return QuantizeSpec(**values)


def events(ctx: StepContext, kind: str | None = None) -> list[dict[str, Any]]:
    """What the step told, optionally of one type."""
    path = ctx.paths.job_events(ctx.job_id)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [e for e in found if kind is None or e["type"] == kind]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short conversations."""
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", chat_rows(40))
