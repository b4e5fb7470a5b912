"""The packaged 135M model: a real tokenizer and real weights through the converter."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.gguf.convert import convert
from recipes.gguf.parity import HARD_TEXTS, compare
from recipes.gguf.runtime import GgufModel
from recipes.gguf.vocabulary import load_tokenizer
from recipes.loading import ensure_base
from recipes.measuring.measure import Reference, cut
from recipes.quantize.grid import grid_note
from recipes.quantize.torch_source import load_source

pytestmark = pytest.mark.slow


def test_the_packaged_model_converts_exactly(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "home").ensure()
    location = resolve_model("smollm2-135m-instruct", paths)
    folder = ensure_base(location, paths)
    tokenizer = load_tokenizer(folder)
    target = tmp_path / "m.gguf"
    made = convert(folder, target, tokenizer=tokenizer)
    assert made.dtype == "BF16"
    assert made.parameters == 134_515_008
    assert compare(tokenizer, target).mismatches == ()
    # the tokenizer inside the packaged file is another path to the same tokens
    with GgufModel(location.path, context=0) as original, GgufModel(target, context=0) as copy:
        for text in HARD_TEXTS:
            assert original.tokenize(text) == copy.tokenize(text), text
    ids = tokenizer(" ".join(HARD_TEXTS[:1] * 20))["input_ids"]
    source = load_source(folder, threads=1, device="cpu")
    reference = Reference(cut("t", ids, 256, 256), tmp_path, source.n_vocab)
    reference.compute(source, lambda _a, _b: None, lambda: None)
    source.close()
    with GgufModel(target, context=256) as result:
        found = reference.measure(result, lambda _a, _b: None, lambda: None)
    assert found.kl < 0.002
    assert found.top1 > 0.98
    assert "Q4_1" in grid_note(location, paths)
