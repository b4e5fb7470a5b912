"""Out of memory becomes advice, and with ``batch = "auto"`` one more try at half the batch."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DoesNotFit
from engine.paths import StatePaths
from engine.types.system import EstimateContext
from recipes.finetune.batch_size import halve_batch, sizes
from recipes.finetune.fit import estimate, parts, read_shape, solve
from recipes.finetune.run import run
from recipes.finetune.schema import FinetuneSpec
from recipes.finetune.session import open_session
from tests.support.step import events, make_context
from tests.support.tiny_model import chat_rows, write_jsonl


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in an interpreter of its own.

    oneDNN that once met an address-space limit makes no bf16 primitive for the rest of the process.
    """

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        if os.environ.get("MODELOPS_TEST_ALONE"):
            test(*args, **kwargs)
            return
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "--no-header",
                f"{__file__}::{test.__name__}",
            ],
            env={**os.environ, "MODELOPS_TEST_ALONE": "1"},
            cwd=Path(__file__).resolve().parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        assert "1 passed" in done.stdout, done.stdout[-4000:]

    return wrapper


def limited(ctx: Any, room: int) -> Any:
    """Limit the address space to what is used when training begins plus ``room`` bytes."""
    real = ctx.phase
    before = resource.getrlimit(resource.RLIMIT_AS)

    def phase(name: str) -> None:
        real(name)
        if name == "training":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + room, before[1]))
        else:
            resource.setrlimit(resource.RLIMIT_AS, before)

    ctx.phase = phase
    return before


def params(model: Path, rows: Path, batch: int | str) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 128},
        "train": {"method": "full", "batch": batch, "samples": 0, "lr": 1e-4},
    }


@alone
def test_out_of_memory_is_advice(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(1024))
    ctx = make_context(tmp_path / "home", "finetune", params(tiny_model, rows, 1024))
    before = limited(ctx, 100 << 20)
    try:
        with pytest.raises(DoesNotFit, match="memory ran out") as caught:
            run(ctx)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "train.batch lower" in caught.value.hint
    assert 'method = "lora"' in caught.value.hint


@alone
def test_auto_batch_is_tried_once_more_with_half(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(256))
    spec = params(tiny_model, rows, "auto")
    spec["data"]["max_length"] = 96
    ctx = make_context(tmp_path / "home", "finetune", spec)
    before = limited(ctx, 8 << 20)
    try:
        with pytest.raises(DoesNotFit):
            run(ctx)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    notes = [e["text"] for e in events(tmp_path / "home", "note")]
    assert "auto: batch 64, max_length 96" in notes
    assert "memory ran out: once more with half the batch" in notes
    assert "auto: batch 32, max_length 96" in notes


def test_a_solved_batch_is_kept_over_attempts(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path / "home", "finetune", params(tiny_model, tiny_chat, "auto"))
    session = open_session(ctx, ctx.params)  # type: ignore[arg-type]
    assert sizes(session) == (128, 64)
    monkeypatch.setattr("recipes.finetune.fit.available_memory", lambda _: 1)
    assert sizes(session) == (128, 64)
    assert halve_batch(ctx)
    assert sizes(session) == (128, 32)


#: Peaks measured by benchmarks/training.py (MiB): the 135M model, LoRA rank 8, fp32 or bf16.
MEASURED = [(True, 4, 256, 2484), (False, 4, 256, 3961)]


@pytest.mark.parametrize(("bf16", "batch", "length", "peak"), MEASURED)
def test_the_estimate_is_near_the_measured_peak(
    tmp_path: Path, bf16: bool, batch: int, length: int, peak: int
) -> None:
    from engine.models import resolve_model

    base = "smollm2-135m-instruct"
    spec = FinetuneSpec.model_validate(
        {"base": base, "data": {"train": "house/train"}, "train": {"rank": 8}}
    )
    shape = read_shape(resolve_model(base, StatePaths(tmp_path)))
    assert shape.parameters == 134_515_008
    found = parts(spec, shape, batch=batch, length=length, device="cpu", bf16=bf16)
    assert 0.95 < sum(found.values()) / 2**20 / peak < 1.10


def test_more_needs_more(tiny_model: Path, tmp_path: Path, tiny_chat: Path) -> None:
    def memory(**train: Any) -> int:
        spec = FinetuneSpec.model_validate(
            {"base": str(tiny_model), "data": {"train": str(tiny_chat)}, "train": train}
        )
        return estimate(spec, EstimateContext(StatePaths(tmp_path), "cpu")).memory_bytes

    assert memory(batch=8) > memory(batch=4) > memory(batch=4, checkpointing=True)
    assert memory(method="full") > memory(method="lora") > memory(method="qlora")
    assert memory(method="full") > memory(method="full", optimizer="adamw-8bit")


def test_the_inverse_agrees_with_the_estimate(tiny_model: Path, tmp_path: Path) -> None:
    spec = FinetuneSpec.model_validate(
        {
            "base": str(tiny_model),
            "data": {"train": "house/train", "max_length": "auto"},
            "train": {"batch": "auto"},
        }
    )
    paths = StatePaths(tmp_path)
    few, many = (solve(spec, paths, "cpu", available=n << 20) for n in (800, 4000))
    assert few[0] < many[0]
    length, batch = few
    from engine.models import resolve_model

    shape = read_shape(resolve_model(str(tiny_model), paths))
    found = parts(spec, shape, batch=batch, length=length, device="cpu", bf16=True)
    assert sum(found.values()) < 800 << 20
    with pytest.raises(DoesNotFit, match="does not fit the memory"):
        solve(spec, paths, "cpu", available=500 << 20)
