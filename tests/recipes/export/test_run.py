"""Exports of the tiny model for each target: proven, handed over whole, refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.errors import BadInput, Conflict
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.registry import Registry
from engine.worker.context import StepContext
from recipes.export.check import check
from recipes.export.run import run
from recipes.export.schema import ExportSpec
from recipes.gguf.runtime import GgufModel


def context(home: Path, model: Path | str, rows: Path, **more: Any) -> StepContext:
    values = {"data": str(rows), "prompts": 3, "prompt_tokens": 8, **more}
    spec = ExportSpec(model=str(model), **values)
    paths = StatePaths(home).ensure()
    paths.run_dir("j1").mkdir(parents=True, exist_ok=True)
    work = paths.step_work("j1", "out")
    work.mkdir(parents=True, exist_ok=True)
    return StepContext("j1", "job", "out", 1, "export", spec, paths, work, "0" * 64, None, 1, "cpu")


def answers_alike(proof: dict[str, Any], prompts: int = 3) -> bool:
    """Every answer is the source's, token by token.

    Where the source itself is undecided between two tokens to 0.02 nats, they may be either: which
    of them comes out on top is up to the rounding of this machine's CPU.
    """
    return len(proof["cases"]) == prompts and all(
        case["same"] == case["of"] or abs(case["gap"]) < 0.02 for case in proof["cases"]
    )


def test_a_directory_is_proven_and_handed_over(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    ctx = context(tmp_path / "home", tiny_model, rows, to=str(target))
    result = run(ctx)
    assert result.outputs["exact"] == result.outputs["prompts"] == 3
    assert result.outputs["path"] == str(target)
    names = {f.name for f in target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "proof.json"} <= names
    proof = json.loads((target / "proof.json").read_text())
    assert proof["passed"]
    assert len(proof["cases"]) == 3
    view = Registry.open(ctx.paths).resolve(result.outputs["model"])
    assert view.artifact_type == "model"
    again = run(context(tmp_path / "home", tiny_model, rows, to=str(target)))
    assert again.outputs["model"] == result.outputs["model"]
    assert not list(tmp_path.glob(".out*"))


def test_ollama_gets_a_modelfile_with_the_stop_tokens(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    run(context(tmp_path / "home", tiny_model, rows, target="ollama", to=str(target)))
    text = (target / "Modelfile").read_text()
    assert text.startswith("FROM ./model-Q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in text
    with GgufModel(target / "model-Q8_0.gguf", context=16) as model:
        assert model.ends(2)


def test_an_unquantized_gguf_must_be_lossless(tiny_model: Path, rows: Path, tmp_path: Path) -> None:
    ctx = context(tmp_path, tiny_model, rows, target="gguf", level="F16")
    assert run(ctx).outputs["exact"] == 3


def test_a_quantized_file_is_exported_as_it_is(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    run(context(tmp_path / "a", tiny_model, rows, target="ollama", to=str(first)))
    file = first / "model-Q8_0.gguf"
    second = tmp_path / "second"
    run(context(tmp_path / "b", file, rows, target="ollama", to=str(second)))
    assert (second / file.name).read_bytes() == file.read_bytes()
    assert (second / "Modelfile").read_text() == (first / "Modelfile").read_text()


def test_an_adapter_is_merged_and_compared_with_the_unmerged_model(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    result = run(context(tmp_path / "home", tmp_path / "adapter", rows))
    folder = Registry.open(StatePaths(tmp_path / "home")).materialize(result.outputs["model"])
    assert not (folder / "adapter_config.json").exists()
    assert result.outputs["prompts"] == 3


def test_a_damaged_export_is_not_handed_over(
    tiny_model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exported weights lose a layer on their way: the proof must see it."""
    from safetensors.torch import load_file, save_file

    from recipes.export import run as module

    def damage(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        if target.name == "model.safetensors":
            weights = load_file(target)
            weights["model.layers.1.mlp.down_proj.weight"].mul_(-8)
            weights["model.norm.weight"].mul_(6)
            save_file(weights, target, {"format": "pt"})

    monkeypatch.setattr(module, "link_or_copy", damage)
    ctx = context(tmp_path / "home", tiny_model, rows, to=str(tmp_path / "out"))
    with pytest.raises(BadInput, match="does not behave like its source"):
        run(ctx)
    assert not (tmp_path / "out").exists()
    assert not Registry.open(ctx.paths).list()


def test_a_folder_that_exists_is_never_touched(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    ctx = context(tmp_path / "home", tiny_model, rows, to=str(target))
    found = check(ctx.params, CheckContext(ctx.paths, tmp_path, "out"))  # type: ignore[arg-type]
    assert [p.path for p in found] == [("to",)]
    with pytest.raises(Conflict, match="exists already"):
        run(ctx)
    assert [f.name for f in target.iterdir()] == ["mine.txt"]


def test_targets_are_checked_from_the_configuration(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    config = json.loads((tiny_model / "config.json").read_text())

    def problems(target: str, level: str = "Q8_0", **changes: Any) -> list[str]:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        spec = ExportSpec(model=str(folder), target=target, data=str(rows), level=level)
        context = CheckContext(StatePaths(tmp_path / "home"), tmp_path, "out")
        return [p.what for p in check(spec, context)]

    assert problems("vllm") == []
    assert problems("gguf", "Q4_K_M") == []
    assert "level has no effect" in problems("hf", "Q4_K_M")[0]
    assert problems("vllm", quantization_config={"quant_method": "awq"}) == []
    hqq = {"quantization_config": {"quant_method": "hqq"}}
    assert "vLLM does not load hqq" in problems("vllm", **hqq)[0]
    assert "can't become a GGUF" in problems("ollama", **hqq)[0]
    assert "MambaForCausalLM" in problems("gguf", architectures=["MambaForCausalLM"])[0]


def test_levels_that_need_importance_are_sent_to_quantize() -> None:
    with pytest.raises(ValidationError, match="quantize first"):
        ExportSpec(model="m", target="gguf", level="IQ2_XS")
    with pytest.raises(ValidationError, match="Q4_K_M"):
        ExportSpec(model="m", target="gguf", level="Q4_KM")


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """A LoRA adapter on the tiny model that changes its answers."""
    return make_adapter(tiny_model, tmp_path / "adapter")


def make_adapter(model_folder: Path, folder: Path, **options: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "up_proj"], **options)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


def test_an_adapter_alone_is_proven_over_its_base(
    adapter: Path, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    ctx = context(tmp_path / "home", adapter, rows, target="gguf-adapter", to=str(target))
    result = run(ctx)
    assert answers_alike(json.loads((target / "proof.json").read_text()))
    names = {f.name for f in target.iterdir()}
    assert names == {
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
        "proof.json",
    }
    view = Registry.open(ctx.paths).resolve(result.outputs["model"])
    assert view.artifact_type == "adapter"
    location = resolve_model(result.outputs["model"], ctx.paths)
    assert location.kind == "adapter"
    assert location.root.path == tiny_model
    # the base alone answers otherwise: the proof compared the adapter, not the base
    case = json.loads((target / "proof.json").read_text())["cases"][0]
    plain = run(context(tmp_path / "base", tiny_model, rows, target="gguf", level="BF16"))
    folder = Registry.open(StatePaths(tmp_path / "base")).materialize(plain.outputs["model"])
    prompt = case["prompt"]
    with GgufModel(folder / "model-BF16.gguf", context=256) as alone:
        ids = alone.tokenize(prompt)
        without = alone.logits(ids).copy()
    with GgufModel(
        folder / "model-BF16.gguf", context=256, adapters=[target / "adapter.gguf"]
    ) as tuned:
        assert abs(tuned.logits(ids) - without).max() > 1


def test_a_wrong_lora_is_not_handed_over(
    adapter: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a conversion that forgot the rows' order would make it."""
    import recipes.serve.lora as lora

    monkeypatch.setattr(lora, "_row_change", lambda _arch, _meta: lambda _module, b: b[::-1].copy())
    target = tmp_path / "out"
    ctx = context(tmp_path / "home", adapter, rows, target="gguf-adapter", to=str(target))
    with pytest.raises(BadInput, match="does not behave like its source"):
        run(ctx)
    assert not target.exists()


def test_what_llama_cpp_cannot_apply_is_a_problem_of_the_recipe(
    tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    home = StatePaths(tmp_path / "home").ensure()

    def problems(model: Path) -> list[str]:
        spec = ExportSpec(model=str(model), target="gguf-adapter", data=str(rows))
        return [p.what for p in check(spec, CheckContext(home, tmp_path, "out"))]

    dora = make_adapter(tiny_model, tmp_path / "dora", use_dora=True)
    assert "use_dora" in problems(dora)[0]
    assert "is no adapter" in problems(tiny_model)[0]
