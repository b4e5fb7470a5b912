"""Every backend and format end to end on the tiny model, each in its own environment (nightly)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.backends import BackendStore
from engine.paths import StatePaths
from engine.registry import Registry
from engine.worker.context import StepContext
from recipes.quantize.run import run
from recipes.quantize.schema import QuantizeSpec
from tests.recipes.quantize.steps import context, spec_for

#: format, backend, method in the configuration, largest mean KL on the random model
CASES = [
    ("gptq", "gptqmodel", "gptq", 0.02),
    ("awq", "gptqmodel", "awq", 0.02),
    ("gptq", "llmcompressor", "compressed-tensors", 0.02),
    ("awq", "llmcompressor", "compressed-tensors", 0.02),
    ("w8a8", "llmcompressor", "compressed-tensors", 0.01),
    ("fp8", "llmcompressor", "compressed-tensors", 0.01),
    ("awq", "autoawq", "awq", 0.02),
    ("gptq", "auto-gptq", "gptq", 0.02),
    ("hqq", "hqq", "hqq", 0.02),
]


def with_environments(home: Path, spec: QuantizeSpec) -> StepContext:
    """A context whose environments are those of the user's own state directory, kept there."""
    ctx = context(home, spec)
    theirs = BackendStore(StatePaths.default().ensure()).root
    theirs.mkdir(exist_ok=True)
    shutil.rmtree(ctx.paths.backends, ignore_errors=True)
    ctx.paths.backends.symlink_to(theirs)
    return ctx


@pytest.mark.nightly
@pytest.mark.parametrize(("form", "backend", "method", "most"), CASES)
def test_a_backend_makes_measures_and_proves(
    form: str,
    backend: str,
    method: str,
    most: float,
    tiny_model: Path,
    rows: Path,
    tmp_path: Path,
) -> None:
    ctx = with_environments(tmp_path, spec_for(tiny_model, rows, format=form, backend=backend))
    result = run(ctx)
    assert 0 < result.outputs["kl"] < most
    assert math.isfinite(result.outputs["perplexity"])
    folder = Registry.open(ctx.paths).materialize(result.outputs["model"])
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    quantization = config["quantization_config"]
    assert quantization["quant_method"] == method
    if form == "awq" and method == "awq":
        # the method's own form; GPTQModel's default is symmetric and costs half as much again
        assert quantization["zero_point"] is True
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"]["backend"] == backend
    assert len(report["settings"]["lock_sha256"]) == 64
    assert report["proof"]["passed"]
    assert result.outputs["size_bytes"] < (tiny_model / "model.safetensors").stat().st_size
    assert (folder / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt"))


@pytest.mark.nightly
@pytest.mark.parametrize(("options", "order"), [({}, "static"), ({"actorder": "none"}, None)])
def test_the_order_of_columns_is_a_setting(
    options: dict[str, str], order: str | None, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows, format="gptq", backend="llmcompressor", options=options)
    ctx = with_environments(tmp_path, spec)
    folder = Registry.open(ctx.paths).materialize(run(ctx).outputs["model"])
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (group,) = config["quantization_config"]["config_groups"].values()
    assert group["weights"]["actorder"] == order
