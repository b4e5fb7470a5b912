"""Evaluation of the tiny model and its adapter; scores against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from recipes.evaluate.check import check
from recipes.evaluate.schema import EvaluateSpec
from recipes.evaluate.scores import exact_match, json_check, load_judge, rouge_l
from tests.support.step import events, run_step
from tests.support.tiny_model import chat_rows, write_jsonl


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_chat: Path) -> str:
    home = tmp_path_factory.mktemp("home")
    result = run_step(
        home,
        "finetune",
        {
            "base": str(tiny_model),
            "data": {"train": str(tiny_chat), "max_length": 128},
            "train": {"lr": 2e-2, "epochs": 4, "rank": 32, "samples": 0},
        },
    )
    return f"{home}\n{result.outputs['model']}"


def test_an_adapter_is_measured_beside_its_base(adapter: str, tmp_path: Path) -> None:
    home, manifest = adapter.split("\n")
    rows = write_jsonl(tmp_path / "held.jsonl", chat_rows(10, 300))
    text = tmp_path / "neutral.txt"
    text.write_text("The ferry left at ten past six, when the harbour was still grey.\n" * 8)
    result = run_step(
        Path(home),
        "evaluate",
        {
            "model": manifest,
            "data": str(rows),
            "neutral": str(text),
            "samples": 1,
            "max_new_tokens": 12,
            "metrics": ["exact_match", "rouge_l", "json_schema"],
            "metric_rows": 3,
        },
        step="check",
    )
    out = result.outputs
    assert out["perplexity"] < out["base_perplexity"]
    assert out["perplexity"] == pytest.approx(math.exp(out["loss"]))
    assert out["neutral_perplexity"] > 1
    assert out["neutral_base_perplexity"] > 1
    assert out["json_valid"] == 0.0
    assert 0 <= out["rouge_l"] <= 1
    (table,) = result.report
    assert table["columns"] == ["measure", "tests.train", resolve_base(home, manifest), "change"]
    report = resolve_model_folder(home, str(out["report"]))
    saved = json.loads((report / "report.json").read_text())
    assert saved["numbers"]["perplexity"] == out["perplexity"]
    (sample,) = events(Path(home), "sample")
    assert sample["prompt"].endswith("number 300?")


def resolve_base(home: str, manifest: str) -> str:
    return resolve_model(manifest, StatePaths(Path(home))).root.name


def resolve_model_folder(home: str, manifest: str) -> Path:
    from engine.registry import Registry

    return Registry.open(StatePaths(Path(home))).materialize(manifest)


def test_perplexity_does_not_depend_on_the_batch(tiny_model: Path, tiny_chat: Path) -> None:
    import torch

    from engine.data.formats import read_examples
    from engine.data.masks import Encoder
    from engine.data.rows import read_rows
    from engine.models import ModelLocation
    from recipes.evaluate.perplexity import score_rows
    from recipes.finetune.rows import compact
    from recipes.loading import choose_precision, load_causal_lm, load_tokenizer

    location = ModelLocation("hf", tiny_model, None, "tiny")
    model = load_causal_lm(location, torch.float32)
    encoder = Encoder(load_tokenizer(location))
    rows = compact(encoder.encode(e) for e in read_examples(read_rows(tiny_chat)))
    fp32 = choose_precision("fp32", "cpu")
    one, five = (score_rows(model, rows, pad_id=0, batch=n, precision=fp32) for n in (1, 5))
    assert one.tokens == five.tokens == sum(int(r.trained[1:].sum()) for r in rows)
    assert one.loss == pytest.approx(five.loss, rel=1e-5)
    # an untrained model knows nothing: about the logarithm of the vocabulary
    assert one.loss == pytest.approx(math.log(1024), abs=0.4)


def test_exact_match_forgives_case_and_ends() -> None:
    assert exact_match(" Paris. ", "paris") == 1.0
    assert exact_match("Paris, France", "paris") == 0.0


def test_rouge_l_by_hand() -> None:
    # "the cat sat" against "the cat on the mat": common "the cat" = 2; p = 2/3, r = 2/5
    assert rouge_l("the cat sat", "the cat on the mat") == pytest.approx(
        2 * (2 / 3) * 0.4 / (2 / 3 + 0.4)
    )
    assert rouge_l("a b c", "a b c") == 1.0
    assert rouge_l("", "a") == 0.0


def test_json_schema(tmp_path: Path) -> None:
    plain = json_check(None)
    assert plain('```json\n{"a": 1}\n```') == 1.0
    assert plain("a: 1") == 0.0
    pytest.importorskip("jsonschema")
    schema = tmp_path / "s.json"
    schema.write_text('{"type": "object", "required": ["a"]}')
    checked = json_check(schema)
    assert (checked('{"a": 1}'), checked('{"b": 1}')) == (1.0, 0.0)
    schema.write_text('{"type": "no-such-type"}')
    with pytest.raises(BadInput, match="is no JSON Schema"):
        json_check(schema)


def test_an_unknown_judge_is_named() -> None:
    with pytest.raises(NotFound, match="no judge 'nobody'"):
        load_judge("nobody")


def test_the_check_finds_every_mistake(tmp_path: Path, tiny_model: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"question": "a"}])
    spec = EvaluateSpec(
        model=str(tmp_path / "nothing"), base=str(tiny_model), data=str(bad), metrics=["judge"]
    )
    found = check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "check"))
    assert {problem.path[0] for problem in found} == {"model", "data", "metrics"}
    assert "row 1" in next(p.what for p in found if p.path == ("data",))
    assert not (tmp_path / "home").exists()
