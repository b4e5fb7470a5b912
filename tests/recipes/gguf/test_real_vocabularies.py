"""Real vocabularies (llama.cpp's own test files) through our converter, token by token.

``LLAMA_CPP_MODELS`` names the folder ``vendor/llama.cpp/models`` of llama-cpp-python's sdist.
Beside each ``ggml-vocab-X.gguf`` it has texts (``.inp``) and the ids that the *original* tokenizer
of the family gave them (``.out``): what is compared is neither llama.cpp's reading nor ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from recipes.gguf.convert import convert
from recipes.gguf.parity import compare
from recipes.gguf.runtime import GgufModel
from tests.recipes.gguf.families import SPLITS

_PLACE = os.environ.get("LLAMA_CPP_MODELS")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not _PLACE, reason="LLAMA_CPP_MODELS is not set"),
]
_MARK = "\n__ggml_vocab_test__\n"


def _tokenizer(path: Path, split: str | None) -> Any:
    """The byte-level tokenizer whose tokens and merges lie in the GGUF at ``path``."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    types: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges: list[str] = fields["tokenizer.ggml.merges"].contents()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind != 1]
    end: int = fields["tokenizer.ggml.eos_token_id"].contents()
    raw = Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=[(a, b) for a, _, b in (m.partition(" ") for m in merges)],
            ignore_merges=split == "llama3",
        )
    )
    steps: list[Any] = []
    if split:
        steps.append(pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split))
    raw.pre_tokenizer = pre_tokenizers.Sequence(steps) if split else steps[0]
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=tokens[end])


@pytest.mark.parametrize(
    ("name", "split"), [("gpt-2", None), ("llama-bpe", "llama3"), ("qwen2", "qwen2")]
)
def test_a_real_vocabulary_is_exact(name: str, split: str | None, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    path = Path(str(_PLACE)) / f"ggml-vocab-{name}.gguf"
    tokenizer = _tokenizer(path, split)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split(_MARK)[:-1]
    lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    expected = [[int(i) for i in line.split()] for line in lines]
    assert len(texts) == len(expected) > 40
    # the tokenizer made here is the family's: it gives what the original gave
    got = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert got == expected
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **shape)
    source = tmp_path / "source"
    LlamaForCausalLM(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    convert(source, tmp_path / "m.gguf", tokenizer=tokenizer)
    # and so does the file that our converter wrote
    with GgufModel(tmp_path / "m.gguf", context=0) as model:
        assert [list(model.tokenize(text, special=False)) for text in texts] == expected
    parity = compare(tokenizer, tmp_path / "m.gguf")
    assert [m.describe() for m in parity.mismatches] == []
