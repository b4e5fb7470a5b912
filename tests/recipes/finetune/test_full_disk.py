"""A full disk loses no run. The kernel's file-size limit stands for it: writes really fail."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OutOfSpace
from recipes.finetune.run import run
from tests.support.step import events, make_context, run_step


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def params(model: Path, rows: Path) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 128},
        "train": {"method": "full", "lr": 1e-3, "save_every": 4, "samples": 0},
    }


def test_training_goes_on_without_a_checkpoint(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    whole = run_step(tmp_path / "whole", "finetune", params(tiny_model, tiny_chat))
    # the weights (5.8 MB) fit, the optimizer's state (11.5 MB) does not
    with file_limit(8_000_000):
        result = run_step(tmp_path / "full", "finetune", params(tiny_model, tiny_chat))
    warnings = [e["text"] for e in events(tmp_path / "full", "note") if e["level"] == "warning"]
    assert sum("could not be written" in text for text in warnings) == 3
    assert not list((tmp_path / "full").rglob("checkpoint-*"))
    assert result.outputs["loss"] == whole.outputs["loss"]


def test_no_space_to_publish_keeps_the_last_checkpoint(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    ctx = make_context(tmp_path / "home", "finetune", params(tiny_model, tiny_chat))
    real = ctx.phase
    limits: list[Any] = []

    def phase(name: str) -> None:
        real(name)
        if name == "publishing":
            limits.append(file_limit(300_000))
            limits[0].__enter__()

    ctx.phase = phase  # type: ignore[method-assign]
    try:
        with pytest.raises(OutOfSpace) as caught:
            run(ctx)
    finally:
        limits[0].__exit__(None, None, None)
    assert "jobs retry" in caught.value.hint or "space" in caught.value.what
    before = len(events(tmp_path / "home", "metrics"))
    result = run_step(tmp_path / "home", "finetune", params(tiny_model, tiny_chat))
    assert "going on from step 12" in [e["text"] for e in events(tmp_path / "home", "note")]
    assert len(events(tmp_path / "home", "metrics")) == before
    assert str(result.outputs["model"]).startswith("sha256:")
