"""Progress is told a few times a second, and the first and the last of every count always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.paths import StatePaths
from engine.recipe.spec import StepSpec
from engine.worker import context as module
from engine.worker.context import StepContext


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepContext:
    """A step whose progress is never old enough to be written for its age."""
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 3600.0)
    paths = StatePaths(tmp_path).ensure()
    paths.run_dir("j").mkdir(parents=True)
    work = tmp_path / "work"
    return StepContext(
        "j", "job", "s", 1, "quantize", StepSpec(), paths, work, "0" * 64, None, 1, "cpu"
    )


def told(ctx: StepContext) -> list[tuple[Any, ...]]:
    lines = ctx.paths.job_events(ctx.job_id).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(e["type"], e.get("done", e.get("name")), e.get("unit")) for e in found]


def test_a_thousand_tensors_write_two_lines(ctx: StepContext) -> None:
    for done in range(1, 1001):
        ctx.progress(done, 1000, "tensors")
    assert told(ctx) == [("progress", 1, "tensors"), ("progress", 1000, "tensors")]


def test_what_was_held_back_comes_before_the_next_event(ctx: StepContext) -> None:
    for done in (1, 2, 3):
        ctx.progress(done, None, "tokens")
    ctx.phase("saving")
    for done in (4, 5):
        ctx.progress(done, None, "tokens")
    ctx.tell_progress()
    ctx.tell_progress()
    assert told(ctx) == [
        ("progress", 1, "tokens"),
        ("progress", 3, "tokens"),
        ("phase", "saving", None),
        ("progress", 5, "tokens"),
    ]


def test_another_count_begins_anew(ctx: StepContext) -> None:
    for done in (1, 2):
        ctx.progress(done, 9, "files")
    for done in (10, 20):
        ctx.progress(done, 99, "bytes")
    ctx.phase("end")
    assert told(ctx) == [
        ("progress", 1, "files"),
        ("progress", 2, "files"),
        ("progress", 10, "bytes"),
        ("progress", 20, "bytes"),
        ("phase", "end", None),
    ]


def test_old_news_is_not_held_back(ctx: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.0)
    for done in range(5):
        ctx.progress(done, 9, "steps")
    assert len(told(ctx)) == 5
