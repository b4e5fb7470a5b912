"""Tiny random models of every family the converter knows, with a tokenizer of the family's kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_model import VOCABULARY, corpus, tiny_tokenizer

SPLITS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def byte_level(split: str | None = None, *, template: str | None = None) -> Any:
    """A byte-level BPE tokenizer; ``split`` names its regular expression (None: GPT-2's own)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    if split is None:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def byte_fallback(*, prefix: bool, phi3: bool = False, first: bool = False) -> Any:
    """A sentencepiece-like BPE tokenizer with byte fallback, as Llama 2 and Gemma have it."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    special = (
        ["<unk>", "<s>", "</s>", "<|endoftext|>"] if phi3 else ["<pad>", "<eos>", "<bos>", "<unk>"]
    )
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE())
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    if prefix:
        steps.insert(0, normalizers.Prepend("▁"))
    trained.normalizer = normalizers.Sequence(steps)
    trained.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=VOCABULARY - 270, show_progress=False)
    )
    import json

    spec = json.loads(trained.to_str())
    learned = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    vocab = {token: i for i, token in enumerate([*special, *fallback, *learned])}
    merges = [tuple(m) for m in spec["model"]["merges"]]
    raw = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    if first:  # as transformers reads Mistral's tokenizer.model
        raw.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        raw.normalizer = normalizers.Sequence(steps)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    if phi3:
        ends = [AddedToken(t, special=True, rstrip=True) for t in ("</s>", "<|end|>", "<|user|>")]
        raw.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>")])
        raw.add_special_tokens([AddedToken("<|endoftext|>", special=True), *ends])
        return PreTrainedTokenizerFast(
            tokenizer_object=raw,
            bos_token="<s>",
            eos_token="<|endoftext|>",
            unk_token="<unk>",
            extra_special_tokens=["<|end|>", "<|user|>", "</s>"],
        )
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def _llama(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**COMMON, **more))


def _mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**COMMON, head_dim=32, sliding_window=None))


def _qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**COMMON, tie_word_embeddings=True))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(std=0.1)
    return model


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=32))


def _gemma() -> Any:
    from transformers import GemmaConfig, GemmaForCausalLM

    return GemmaForCausalLM(GemmaConfig(**COMMON, head_dim=32))


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = {**COMMON, "num_hidden_layers": 26}
    return Gemma2ForCausalLM(
        Gemma2Config(
            **config, head_dim=32, query_pre_attn_scalar=32, sliding_window=16, eos_token_id=1
        )
    )


def _gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = {**COMMON, "num_hidden_layers": 7}
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**config, head_dim=32, query_pre_attn_scalar=32, sliding_window=16)
    )


def _phi3(**more: Any) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    values: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, **more}
    return Phi3ForCausalLM(Phi3Config(**COMMON, **values))


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=512,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.5 + i / 8 for i in range(8)],
    "short_factor": [1.0 + i / 16 for i in range(8)],
    "original_max_position_embeddings": 256,
}

#: family -> (model, tokenizer)
FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "llama": (_llama, tiny_tokenizer),
    "llama2-tokenizer": (_llama, lambda: byte_fallback(prefix=True)),
    "llama3": (lambda: _llama(rope_parameters=LLAMA3_ROPE), lambda: byte_level("llama3")),
    "mistral": (_mistral, lambda: byte_fallback(prefix=True)),
    "qwen2": (_qwen2, lambda: byte_level("qwen2")),
    "qwen3": (_qwen3, lambda: byte_level("qwen2")),
    "gemma": (_gemma, lambda: byte_fallback(prefix=False)),
    "gemma2": (_gemma2, lambda: byte_fallback(prefix=False)),
    "gemma3": (_gemma3, lambda: byte_fallback(prefix=False)),
    "phi3": (lambda: _phi3(sliding_window=256), lambda: byte_fallback(prefix=True, phi3=True)),
    "phi3-long": (
        lambda: _phi3(rope_parameters=LONG_ROPE, sliding_window=512),
        lambda: byte_fallback(prefix=True),
    ),
    "phi4": (lambda: _phi3(sliding_window=None), lambda: byte_level("llama3")),
    "gpt2": (_gpt2, lambda: byte_level(None)),
}


def save_family(name: str, folder: Path, dtype: str = "float32") -> Path:
    """Write the tiny model of a family to ``folder``."""
    import torch

    torch.manual_seed(7)
    build, tokenizer = FAMILIES[name]
    model = build()
    for parameter_name, parameter in model.named_parameters():
        # norms that are not all one: a forgotten shift must show
        if "norm" in parameter_name or "ln_" in parameter_name:
            parameter.data += 0.3 * torch.randn_like(parameter)
        elif parameter.ndim == 2:
            parameter.data *= 4
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
