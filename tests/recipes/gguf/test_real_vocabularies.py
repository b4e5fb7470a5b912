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

from recipes.export.run import run
from recipes.gguf.convert import convert
from recipes.gguf.parity import compare
from recipes.gguf.runtime import GgufModel
from tests.recipes.export.test_run import context
from tests.recipes.gguf.families import SPLITS

_PLACE = os.environ.get("LLAMA_CPP_MODELS")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not _PLACE, reason="LLAMA_CPP_MODELS is not set"),
]
_MARK = "\n__ggml_vocab_test__\n"
#: Token types of a GGUF that are pieces of text (normal, byte); the others are added tokens.
_PIECES = (1, 6)


def _fields(path: Path) -> dict[str, Any]:
    """The ``tokenizer.ggml.*`` keys of a GGUF, by their last part."""
    from gguf import GGUFReader

    start = "tokenizer.ggml."
    fields = GGUFReader(path).fields
    return {k.removeprefix(start): v.contents() for k, v in fields.items() if k.startswith(start)}


def _byte_level(path: Path, split: str | None) -> Any:
    """The byte-level tokenizer whose tokens and merges lie in the GGUF at ``path``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = _fields(path)
    tokens: list[str] = fields["tokens"]
    special = [t for t, kind in zip(tokens, fields["token_type"], strict=True) if kind != 1]
    raw = Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=[(a, b) for a, _, b in (m.partition(" ") for m in fields["merges"])],
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
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=tokens[fields["eos_token_id"]])


def _byte_fallback(path: Path, *, prefix: bool, strips: bool = False) -> Any:
    """The sentencepiece-like tokenizer of the GGUF at ``path``, as the family's own files have it.

    Where the file has scores only, a merge is every way to put a piece together from two others,
    the best piece first: so transformers made the ``tokenizer.json`` of Llama 2 and Phi-3.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    fields = _fields(path)
    tokens: list[str] = fields["tokens"]
    vocab = {token: i for i, token in enumerate(tokens)}
    begin, unknown = fields["bos_token_id"], tokens[fields["unknown_token_id"]]
    raw = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(fields, vocab),
            byte_fallback=True,
            unk_token=unknown,
            fuse_unk=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    kinds = zip(tokens, fields["token_type"], strict=True)
    added = [t for t, kind in kinds if kind not in _PIECES and not t.startswith("[PAD")]
    # Phi-3's own files: white space belongs to every added token but these three
    plain = {unknown, tokens[begin], tokens[fields["eos_token_id"]]}
    raw.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False, rstrip=strips and t not in plain)
            for t in added
        ]
    )
    raw.post_processor = processors.TemplateProcessing(
        single=f"{tokens[begin]} $A", special_tokens=[(tokens[begin], begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=tokens[begin],
        eos_token=tokens[fields["eos_token_id"]],
        unk_token=unknown,
        extra_special_tokens=added[:8],
    )


def _merges(fields: dict[str, Any], vocab: dict[str, int]) -> list[tuple[str, str]]:
    if "merges" in fields:
        return [(a, b) for a, _, b in (m.partition(" ") for m in fields["merges"])]
    scores: list[float] = fields["scores"]
    found: list[tuple[float, int, int, str, str]] = []
    for token, number in vocab.items():
        if fields["token_type"][number] not in _PIECES:
            continue
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocab and right in vocab:
                found.append((-scores[number], vocab[left], vocab[right], left, right))
    return [(left, right) for *_order, left, right in sorted(found)]


def _check(name: str, tokenizer: Any, source: Path, target: Path, rows: Path) -> None:
    """The tokenizer gives what the original gave, and so does the file that our converter wrote."""
    path = Path(str(_PLACE)) / f"ggml-vocab-{name}.gguf"
    lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    expected = [[int(i) for i in line.split()] for line in lines]
    # some of these files end with the mark, some with the last text
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split(_MARK)[: len(expected)]
    assert len(texts) == len(expected) > 40
    got = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert got == expected
    tokenizer.save_pretrained(source)
    convert(source, target, tokenizer=tokenizer)
    with GgufModel(target, context=0) as model:
        assert [list(model.tokenize(text, special=False)) for text in texts] == expected
    parity = compare(tokenizer, target)
    assert [m.describe() for m in parity.mismatches] == []
    # the whole way: the export's own proof, with the family's chat template where the file has it
    template = _fields(path).get("chat_template")
    if template:
        (source / "chat_template.jinja").write_text(template, encoding="utf-8")
    done = run(context(target.parent / "home", source, rows, target="gguf", level="F32"))
    assert done.outputs["exact"] == done.outputs["prompts"] == 3


def _shape(tokenizer: Any) -> dict[str, Any]:
    """The configuration of a tiny model, whose weights will be the same in every run."""
    import torch

    torch.manual_seed(7)
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": None,
    }


@pytest.mark.parametrize(
    ("name", "split"), [("gpt-2", None), ("llama-bpe", "llama3"), ("qwen2", "qwen2")]
)
def test_a_real_vocabulary_is_exact(
    name: str, split: str | None, rows: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_level(Path(str(_PLACE)) / f"ggml-vocab-{name}.gguf", split)
    source = tmp_path / "source"
    LlamaForCausalLM(LlamaConfig(**_shape(tokenizer))).save_pretrained(source)
    _check(name, tokenizer, source, tmp_path / "m.gguf", rows)


def _llama(shape: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**shape))


def _phi3(shape: dict[str, Any]) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**shape))


def _gemma3(shape: dict[str, Any]) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**shape, head_dim=16))


@pytest.mark.parametrize(
    ("name", "build", "prefix", "strips"),
    [
        ("llama-spm", _llama, True, False),
        ("phi-3", _phi3, True, True),
        # Gemma 4's file: pieces and merges are the family's, as Gemma 2 and 3 have them
        ("gemma-4", _gemma3, False, False),
    ],
)
def test_a_real_vocabulary_with_byte_fallback_is_exact(
    name: str, build: Any, prefix: bool, strips: bool, rows: Path, tmp_path: Path
) -> None:
    path = Path(str(_PLACE)) / f"ggml-vocab-{name}.gguf"
    tokenizer = _byte_fallback(path, prefix=prefix, strips=strips)
    source = tmp_path / "source"
    build(_shape(tokenizer)).save_pretrained(source)
    _check(name, tokenizer, source, tmp_path / "m.gguf", rows)
