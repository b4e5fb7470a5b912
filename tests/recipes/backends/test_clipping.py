"""The faster search for AWQ's clipping bounds finds what the plain definition finds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import recipes.backends.on_gptqmodel as package


@pytest.fixture(scope="module")
def worker() -> Any:
    file = Path(str(package.__file__)).with_name("worker.py")
    spec = importlib.util.spec_from_file_location("on_gptqmodel_worker", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def rounded(w: torch.Tensor) -> torch.Tensor:
    """Four bits with a zero point for every group (the last axis), as GPTQModel rounds."""
    high, low = w.amax(-1, keepdim=True), w.amin(-1, keepdim=True)
    scale = (high - low).clamp(min=1e-5) / 15
    zero = (-torch.round(low / scale)).clamp(0, 15)
    return ((torch.round(w / scale) + zero).clamp(0, 15) - zero) * scale


class Rounding:
    """The part of the library's processor that the search uses."""

    def __init__(self, group: int) -> None:
        self.qcfg = SimpleNamespace(group_size=group)

    def _pseudo_quantize_tensor_into(self, source: torch.Tensor, target: torch.Tensor) -> None:
        target.copy_(rounded(source))


@pytest.mark.parametrize("group", [32, -1])
def test_the_bounds_are_those_of_the_definition(worker: Any, group: int) -> None:
    torch.manual_seed(3)
    rows, columns, tokens = 48, 96, 1100
    # a few heavy weights, and inputs of different strength: some groups gain by clipping
    w = torch.randn(rows, columns) * torch.rand(rows, columns).pow(3)
    w[torch.rand(rows, columns) < 0.02] *= 6
    x = torch.randn(2, tokens // 2, columns) * torch.rand(columns).pow(2)
    found = worker.clipping_bounds(Rounding(group), w, x)
    size = group if group > 0 else columns
    groups = w.reshape(rows, -1, size)
    sampled = x.reshape(tokens, columns)[:: tokens // 512].reshape(-1, columns // size, size)
    whole = groups.abs().amax(-1, keepdim=True)
    assert found.shape == whole.shape
    errors = []
    for step in range(10):
        bound = whole * (1 - step / 20)
        change = (rounded(groups.clamp(-bound, bound)) - groups).double()
        # (tokens, rows, groups): what the change of a group adds to the output
        added = torch.einsum("tgk,rgk->trg", sampled.double(), change)
        errors.append(added.pow(2).mean(0))
    least, chosen = torch.stack(errors).min(0)
    step_of = torch.round((1 - found.squeeze(-1) / whole.squeeze(-1)) * 20).long()
    got = torch.stack(errors).gather(0, step_of[None])[0]
    assert torch.all(got <= least * (1 + 1e-4))
    assert len(chosen.unique()) > 3  # otherwise nothing would be shown


@pytest.mark.parametrize(
    ("layers", "megabytes", "between"),
    [(30, 269, 7), (4, 1, 1), (12, 250, 3), (28, 3_000, 1), (32, 16_000, 1), (0, 10, 1)],
)
def test_small_layers_are_kept_a_few_at_a_time(
    worker: Any, layers: int, megabytes: int, between: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(megabytes * 1_000_000)
    assert worker.layers_between(tmp_path) == between
