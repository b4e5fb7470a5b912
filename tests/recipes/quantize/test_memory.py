"""Memory is looked at before a backend's work, and what is missing is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine.backends import BackendStore
from engine.errors import DoesNotFit
from engine.paths import StatePaths
from engine.types.system import EstimateContext
from recipes.quantize.estimate import estimate
from recipes.quantize.memory import backend_memory, check_room
from recipes.quantize.run import run
from recipes.quantize.schema import QuantizeSpec
from tests.recipes.quantize.steps import context, spec_for

#: Llama 3.1 8B.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
WEIGHTS = 16_060_000_000


def step(**values: Any) -> QuantizeSpec:
    return QuantizeSpec(model="m", **values)


def test_the_parts_follow_the_work() -> None:
    gptq = backend_memory(step(format="gptq", calibration={"tokens": 65536}), LLAMA, WEIGHTS)
    assert gptq["source weights"] == WEIGHTS
    assert gptq["Hessian"] == 3 * 14336 * 14336 * 4
    twice = backend_memory(step(format="gptq", calibration={"tokens": 131072}), LLAMA, WEIGHTS)
    assert twice["calibration states"] == 2 * gptq["calibration states"]
    assert "Hessian" not in backend_memory(step(format="awq"), LLAMA, WEIGHTS)
    # no calibration: what is left is the measurement
    assert set(backend_memory(step(format="hqq"), LLAMA, WEIGHTS)) == {
        "libraries",
        "source weights",
        "logits",
    }


def test_the_advice_makes_it_fit() -> None:
    spec = step(format="awq", calibration={"tokens": 65536})
    free = sum(backend_memory(spec, LLAMA, WEIGHTS).values()) - 2_000_000_000
    with pytest.raises(DoesNotFit) as caught:
        check_room(spec, LLAMA, WEIGHTS, free)
    assert "calibration states" in str(caught.value.why)
    found = re.fullmatch(r"set calibration\.tokens = (\d+)", caught.value.hint or "")
    assert found is not None
    check_room(step(format="awq", calibration={"tokens": int(found[1])}), LLAMA, WEIGHTS, free)


def test_weights_that_do_not_fit_have_no_setting() -> None:
    with pytest.raises(DoesNotFit, match=r"gptqmodel needs about \d\d\.\d GB") as caught:
        check_room(step(format="gptq"), LLAMA, WEIGHTS, 8_000_000_000)
    assert "more memory" in (caught.value.hint or "")


def test_an_unknown_architecture_still_counts_its_weights() -> None:
    parts = backend_memory(step(format="gptq"), {"architectures": ["Unheard"]}, WEIGHTS)
    assert parts["source weights"] == WEIGHTS


def test_a_step_is_refused_before_its_environment_is_made(
    tiny_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_a: object, **_k: object) -> None:
        raise AssertionError("an environment was made")

    monkeypatch.setattr(BackendStore, "ensure", never)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 << 20))
    with pytest.raises(DoesNotFit, match="gptqmodel needs about"):
        run(context(tmp_path, spec_for(tiny_model, rows, format="gptq")))


def test_the_estimate_counts_the_calibration(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors").write_bytes(b"0" * 1000)
    (folder / "tokenizer.json").write_text("{}")
    context = EstimateContext(StatePaths(tmp_path / "home"), "cpu")

    def need(tokens: int) -> int:
        values: dict[str, Any] = {"format": "gptq", "calibration": {"tokens": tokens}}
        spec = QuantizeSpec(model=str(folder), **values)
        return estimate(spec, context).memory_bytes

    assert need(131072) - need(65536) == 65536 * 4 * (4 * 4096 + 2 * 14336)
