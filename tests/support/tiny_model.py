"""A real, random Llama of 1.4 million parameters with its own BPE tokenizer and a chat template.

It is built in about two seconds and behaves like a model in every way but quality: it trains,
merges, converts to GGUF and generates. Every column count is divisible by 256, so that K-quants
apply. The tokenizer splits as SmolLM2's does (single digits, byte level): llama.cpp's ``smollm``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 1024
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

#: ChatML with a default system turn, as SmolLM2 has it (no generation mask).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def corpus() -> list[str]:
    """Plain English to learn the merges from: the licence, which never changes."""
    return [line for line in (ROOT / "LICENSE").read_text().splitlines() if line.strip()]


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A transformers tokenizer with ``VOCABULARY`` entries, three of them special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=TURN_START,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, TURN_END],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config() -> Any:
    """Two layers of width 256, grouped-query attention, tied embeddings: 1.44 M parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rms_norm_eps=1e-5,
    )


def build_tiny_model(
    folder: Path, seed: int = 0, chat_template: str | None = CHAT_TEMPLATE
) -> Path:
    """Write model and tokenizer into ``folder`` (safetensors) and return it."""
    import torch
    from transformers import LlamaForCausalLM

    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config()).float()
    torch.random.set_rng_state(generator_state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tiny_tokenizer(chat_template).save_pretrained(folder)
    return folder


TOPICS = ("the license", "a copy", "the work", "a notice", "the source", "a patent", "the terms")


def chat_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """``count`` different short conversations in ``messages`` format."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What about {TOPICS[i % len(TOPICS)]}, number {i}?"},
                {
                    "role": "assistant",
                    "content": f"Number {i}: you may use {TOPICS[i % len(TOPICS)]}.",
                },
            ]
        }
        for i in range(start, start + count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write ``rows`` as JSON lines and return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model, built once a session; treat it as read-only."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of 48 short conversations."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "chat.jsonl", chat_rows(48))
