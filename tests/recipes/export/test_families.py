"""The round trip of an export for every family of the converter: greedy answers, template, stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.export.run import run
from recipes.gguf.runtime import GgufModel
from recipes.gguf.vocabulary import load_tokenizer, stop_ids
from tests.recipes.export.test_run import answers_alike, context
from tests.recipes.gguf.families import save_family
from tests.support.tiny_model import CHAT_TEMPLATE


@pytest.mark.parametrize(
    "family", ["llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2"]
)
def test_an_export_answers_as_its_source(family: str, rows: Path, tmp_path: Path) -> None:
    source = save_family(family, tmp_path / family)
    (source / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    target = tmp_path / "out"
    values = {"target": "gguf", "level": "F32", "to": str(target)}
    result = run(context(tmp_path / "home", source, rows, **values))
    assert result.outputs["prompts"] == 3
    proof = json.loads((target / "proof.json").read_text())
    assert proof["passed"]
    assert answers_alike(proof)
    assert proof["template_same"]
    assert proof["stops_same"]
    assert all(case["of"] >= 1 for case in proof["cases"])
    # the prompts were conversations, and what ends a generation ends it in llama.cpp, too
    assert any("<|im_start|>" in case["prompt"] for case in proof["cases"])
    with GgufModel(target / "model-F32.gguf", context=0) as model:
        assert model.ends(load_tokenizer(source).eos_token_id)
        assert all(model.ends(stop) for stop in stop_ids(source))
