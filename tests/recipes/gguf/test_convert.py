"""Every family: the GGUF predicts as transformers does, and its tokenizer is the source's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound, Refused
from recipes.gguf.convert import convert
from recipes.gguf.parity import compare
from recipes.gguf.runtime import GgufModel
from recipes.gguf.vocabulary import load_tokenizer, restore_split, splitting_rule
from tests.recipes.gguf.families import FAMILIES, byte_fallback, byte_level, save_family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_predicts_as_its_source(family: str, tmp_path: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    source = save_family(family, tmp_path / family)
    tokenizer = load_tokenizer(source)
    target = tmp_path / "model.gguf"
    convert(source, target, dtype="F32", tokenizer=tokenizer)
    assert compare(tokenizer, target).mismatches == ()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ids = list(range(5, 105))
    with torch.inference_mode():
        want = model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
    with GgufModel(target, context=128) as result:
        have = torch.from_numpy(result.logits(ids).copy()).log_softmax(-1).numpy()
    difference = np.abs(want - have).max()
    assert difference < 0.02 * np.abs(want).max(), difference
    assert want.std() > 0.3  # a model that says the same everywhere would prove nothing


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_the_default_type_keeps_what_is_stored(stored: str, tmp_path: Path) -> None:
    import gguf
    import numpy as np

    source = save_family("llama2-tokenizer", tmp_path / "m", stored)
    made = convert(source, tmp_path / "m.gguf")
    assert made.dtype == ("BF16" if stored == "bfloat16" else "F16")
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == made.dtype
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    from safetensors import safe_open

    with safe_open(source / "model.safetensors", "pt") as file:
        want = file.get_tensor("model.layers.0.mlp.up_proj.weight").float().numpy()
    have = gguf.quants.dequantize(
        tensors["blk.0.ffn_up.weight"].data, tensors["blk.0.ffn_up.weight"].tensor_type
    )
    tolerance = 0 if stored != "float32" else 1e-3
    assert np.abs(have - want).max() <= tolerance * np.abs(want).max()


def test_bfloat16_rounds_as_torch_does() -> None:
    import numpy as np
    import torch

    from recipes.gguf.convert import from_bfloat16, to_bfloat16

    values = np.random.default_rng(1).normal(size=4096).astype(np.float32)
    values[:5] = [0.0, -0.0, np.inf, 3.4e38, 1e-40]
    want = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(from_bfloat16(to_bfloat16(values)), want)


def test_a_value_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = save_family("llama2-tokenizer", tmp_path / "m")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match="does not fit into F16"):
        convert(source, tmp_path / "m.gguf")
    assert list(tmp_path.glob("*.gguf*")) == []
    assert convert(source, tmp_path / "m.gguf", dtype="BF16").dtype == "BF16"


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_bad_sources_are_refused_with_the_reason(tmp_path: Path) -> None:
    source = save_family("llama2-tokenizer", tmp_path / "m")
    original = (source / "config.json").read_text()
    target = tmp_path / "m.gguf"

    rewrite_config(source, architectures=["MambaForCausalLM"])
    with pytest.raises(Refused, match="MambaForCausalLM") as refused:
        convert(source, target)
    assert "LlamaForCausalLM" in refused.value.why
    assert "llama-cpp-convert" in refused.value.hint

    rewrite_config(source, architectures=["LlamaForCausalLM"], hidden_act="gelu")
    with pytest.raises(Refused, match="activation"):
        convert(source, target)

    (source / "config.json").write_text(original)
    rewrite_config(source, num_hidden_layers=3)
    with pytest.raises(BadInput, match="incomplete"):
        convert(source, target)

    (source / "config.json").write_text(original)
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="truncated"):
        convert(source, target)

    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Refused, match="pickle"):
        convert(source, target)
    assert list(tmp_path.glob("*.gguf*")) == []


def test_an_unknown_splitting_rule_is_refused_not_guessed() -> None:
    spec = {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated"}}
    with pytest.raises(Refused, match="splitting rule"):
        splitting_rule(spec)


def test_a_swapped_token_is_noticed(tmp_path: Path) -> None:
    source = save_family("llama", tmp_path / "m")
    tokenizer = load_tokenizer(source)
    convert(source, tmp_path / "m.gguf", tokenizer=tokenizer)
    path = source / "tokenizer.json"
    spec = json.loads(path.read_text())
    vocab = spec["model"]["vocab"]
    vocab["t"], vocab["h"] = vocab["h"], vocab["t"]
    path.write_text(json.dumps(spec))
    found = compare(load_tokenizer(source), tmp_path / "m.gguf").mismatches
    assert found
    assert "the source says" in found[0].describe()


def test_decomposed_text_is_a_limit_of_llama_cpp_not_a_fault(tmp_path: Path) -> None:
    source = save_family("qwen2", tmp_path / "m")
    tokenizer = load_tokenizer(source)
    convert(source, tmp_path / "m.gguf", tokenizer=tokenizer)
    parity = compare(tokenizer, tmp_path / "m.gguf")
    assert parity.mismatches == ()
    assert "NFC" in parity.limits[0]


def test_sharded_checkpoints_and_missing_shards(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = save_family("llama2-tokenizer", tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="200KB")
    shards = sorted(source.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert convert(source, tmp_path / "m.gguf").parameters == model.num_parameters()
    shards[0].unlink()
    with pytest.raises(NotFound, match="incomplete"):
        convert(source, tmp_path / "n.gguf")


@pytest.mark.parametrize("chats", [False, True])
def test_a_space_before_the_first_word_only_is_a_limit(chats: bool, tmp_path: Path) -> None:
    source = save_family("mistral", tmp_path / "m")
    tokenizer = byte_fallback(prefix=False, first=True)
    tokenizer.chat_template = "<bos>{{ messages[0].content }}" if chats else None
    tokenizer.save_pretrained(source)
    tokenizer = load_tokenizer(source)
    target = tmp_path / "m.gguf"
    convert(source, target, tokenizer=tokenizer)
    parity = compare(tokenizer, target)
    assert parity.mismatches == ()
    assert "one space may differ" in parity.limits[0]
    with GgufModel(target, context=0) as model:
        plain = (
            model.tokenize("license") == tokenizer("license", add_special_tokens=False).input_ids
        )
        text = "<bos>license"
        turn = model.tokenize(text) == tokenizer(text, add_special_tokens=False).input_ids
    assert (plain, turn) == (not chats, chats)


@pytest.mark.parametrize("rule", ["smollm", "gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_a_splitting_rule_survives_the_way_through_a_gguf(rule: str) -> None:
    tokenizer = byte_level(None)
    assert restore_split(tokenizer, rule)
    assert splitting_rule(json.loads(tokenizer.backend_tokenizer.to_str())) == rule
    assert not restore_split(tokenizer, "unheard-of")
