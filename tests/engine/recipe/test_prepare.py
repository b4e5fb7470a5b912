"""One recipe in, one plan or every mistake with its place out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound, RecipeInvalid
from engine.recipe import prepare
from engine.recipe.diagnostics import render
from engine.recipe.plan import Plan
from tests.engine.recipe.conftest import Bench

GOOD = """\
recipe = 1
name = "support-bot"
kind = "finetune"
base = "smollm2-135m-instruct"

[data]
train = "rows.jsonl"
format = "chat"

[train]
method = "lora"
lr = 2e-4
"""


def test_a_plan_is_complete_and_survives_json(bench: Bench) -> None:
    plan = bench.prepare(GOOD)
    (step,) = plan.steps
    assert (plan.name, plan.kind, step.name, step.kind) == (
        "support-bot",
        "finetune",
        "finetune",
        "finetune",
    )
    assert step.params["train"]["rank"] == 16, "defaults are frozen into the plan"
    assert step.params["data"]["train"] == str(bench.folder / "rows.jsonl")
    assert "kind" not in step.params
    assert plan.data_versions[str(bench.folder / "rows.jsonl")].startswith("file:")
    assert len(plan.code_versions["finetune"]) == 16
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_hash_is_of_the_content(bench: Bench) -> None:
    plan = bench.prepare(GOOD)
    again = bench.prepare("# a comment\n" + GOOD.replace("lr = 2e-4", "lr = 0.0002"))
    assert plan.sha256 == again.sha256
    assert plan.sha256 != bench.prepare(GOOD.replace("2e-4", "3e-4")).sha256
    (bench.folder / "rows.jsonl").write_text((bench.folder / "held.jsonl").read_text())
    assert plan.sha256 != bench.prepare(GOOD).sha256, "other data, other content"


def test_all_mistakes_at_once_each_with_its_place(bench: Bench) -> None:
    found = bench.mistakes(
        """\
recipe = 1
kind = "finetune"
base = "smollm2-135m-instruct"
data = { train = "rows.jsonl", format = "chatt" }
sed = 1
[train]
methd = "lora"
lr = 5
rank = 0
batch = "4"
epochs = true
targets = "q_proj"
max_length = 512
"""
    )
    assert [(d.line, d.column, d.length) for d in found] == [
        (4, 41, 7),
        (5, 1, 3),
        (7, 1, 5),
        (8, 6, 1),
        (9, 8, 1),
        (10, 9, 3),
        (11, 10, 4),
        (12, 11, 8),
        (13, 1, 10),
    ]
    whats = [d.what for d in found]
    assert whats[1] == "unknown key `sed` in a step of kind finetune"
    assert whats[2] == "unknown key `methd` in [train]"
    assert whats[3] == "`train.lr` is 5, it must be a number above 0 and at most 1"
    assert whats[4] == "`train.rank` is 0, it must be a whole number from 1 to 1024"
    assert whats[5] == (
        '`train.batch` is the text "4", it must be a whole number from 1 to 65536, or "auto"'
    )
    assert whats[6].startswith("`train.epochs` is true, it must be a number")
    advice = [d.advice for d in found]
    assert advice[0] == 'did you mean "chat"?'
    assert advice[1] == "did you mean `seed`?"
    assert advice[2] == "did you mean `method`?"
    assert advice[5] == "write it without quotes: 4"
    assert advice[7] == 'did you mean "all-linear"?' or "list" in advice[7]
    assert advice[8] == "`max_length` belongs in [data]"


def test_missing_keys_say_what_they_are(bench: Bench) -> None:
    found = bench.mistakes('recipe = 1\nkind = "finetune"\n[data]\nformat = "chat"\n')
    assert [(d.line, d.what) for d in found] == [
        (2, "`base` is missing"),
        (3, "`data.train` is missing"),
    ]
    assert found[0].advice == "it is a model: the model to start from."


def test_a_misspelled_needed_key_is_one_mistake(bench: Bench) -> None:
    found = bench.mistake(GOOD.replace("base =", "bsae ="))
    assert (found.what, found.advice) == (
        "unknown key `bsae` in a step of kind finetune",
        "did you mean `base`?",
    )


def test_a_models_own_rule_points_at_the_key_it_names(bench: Bench) -> None:
    found = bench.mistake(GOOD + 'keep = "best"\n')
    assert (found.line, found.column) == (13, 8)
    assert "needs held-out rows" in found.what


def test_kinds_checks_are_placed(bench: Bench) -> None:
    found = bench.mistakes(
        GOOD.replace("rows.jsonl", "nowhere.jsonl").replace("smollm2-135m-instruct", "smolm2-135m")
        + "[trainer]\nlerning_rate = 1\n"
    )
    assert [d.line for d in found] == [4, 7, 14]
    assert "smolm2-135m" in found[0].what
    assert "nowhere.jsonl" in found[1].what
    assert "lerning_rate" in found[2].what


@pytest.mark.parametrize(
    ("text", "line", "column", "advice"),
    [
        ('kind = "finetune"\nbase = smollm2\n', 2, 8, 'text needs quotes: "smollm2"'),
        ('kind = "finetune"\nx = True\n', 2, 5, "write true"),
        ('kind = "finetune"\nx = None\n', 2, 5, "TOML has no null: leave the key out"),
        ("kind = “finetune”\n", 1, 8, 'typographic quotes: use straight ones (")'),
        ("a = 1\na = 2\n", 2, 6, "a key or table may be written once: merge the two"),
        ("base: llama\n", 1, 5, "this looks like YAML"),
        ('kind = "finetune\n', 1, 17, ""),
        ("[data\n", 1, 6, ""),
        ("a = [1, 2\n", 1, 10, ""),
    ],
)
def test_syntax_errors(bench: Bench, text: str, line: int, column: int, advice: str) -> None:
    found = bench.mistake(text)
    assert (found.line, found.column) == (line, column), found
    assert found.what.startswith("not valid TOML")
    assert found.advice.startswith(advice)


def test_rendering_like_rustc(bench: Bench) -> None:
    found = bench.mistake(GOOD.replace('"chat"', '"日本x"'))
    assert render(found) == (
        'r.toml:8:10: `data.format` is the text "日本x", it must be one of "auto", "chat", '
        '"alpaca", "sharegpt", "prompt-completion", "text", "preference", "kto", "prompt"\n'
        '  8 | format = "日本x"\n'
        "    |          ^^^^^^^"
    )


def test_tabs_keep_the_caret_in_its_column(bench: Bench) -> None:
    found = bench.mistake(GOOD.replace("lr = 2e-4", "\tlr\t= 7"))
    lines = render(found).splitlines()
    assert lines[1] == "  12 | \tlr\t= 7"
    assert lines[2] == "     | \t  \t  ^"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ('kind = "finetne"', 'there is no kind "finetne"'),
        ("recipe = 2", "`recipe` is the grammar's version, 1"),
        ('name = "Bad Name"', "\"Bad Name\" can't be a recipe's name"),
        ("name = 3", "`name` is 3, it must be text"),
        ("seed = nan", "`seed` is nan: a finite number is needed"),
        ("seed = 99999999999999999999", "`seed` does not fit in 64 bits"),
    ],
)
def test_the_recipes_own_keys(bench: Bench, change: str, what: str) -> None:
    key = change.split(" ")[0]
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} =")]
    found = bench.mistakes("\n".join([change, *lines]))
    assert found[0].what == what
    assert found[0].line == 1


def test_a_file_that_is_not_there_or_is_no_text(bench: Bench, tmp_path: Path) -> None:
    bench.prepare(GOOD)
    with pytest.raises(NotFound, match="no recipe file") as caught:
        prepare(tmp_path / "rr.toml")
    assert "r.toml" in caught.value.hint
    with pytest.raises(BadInput, match="is a folder"):
        prepare(tmp_path)
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8"):
        prepare(tmp_path / "latin.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(BadInput, match="too large"):
        prepare(tmp_path / "big.toml")


def test_text_without_a_file(bench: Bench) -> None:
    plan = prepare(GOOD, (), bench.paths, source_path=bench.folder / "form.toml")
    assert plan.steps[0].params["data"]["train"] == str(bench.folder / "rows.jsonl")
    with pytest.raises(RecipeInvalid) as caught:
        prepare("kind = 3", (), bench.paths)
    assert render(caught.value.diagnostics[0]).startswith("<recipe>:1:8: ")  # type: ignore[arg-type]


def test_overrides(bench: Bench) -> None:
    plan = bench.prepare(
        GOOD, "train.lr=1e-3", "rank = 4", "base=smollm2", "train.targets=['q_proj']"
    )
    train = plan.steps[0].params["train"]
    assert (train["lr"], train["rank"]) == (1e-3, 4), "a table may be left out where it is clear"
    assert plan.steps[0].params["base"] == "smollm2", "a bare word is text"
    assert plan.sets == ("train.lr=1e-3", "rank = 4", "base=smollm2", "train.targets=['q_proj']")


def test_override_mistakes_point_into_the_override(bench: Bench) -> None:
    found = bench.mistakes(GOOD.replace("2e-4", "3"), "train.rnk=4", "train.rank=0")
    assert [(d.path, d.line, d.column) for d in found] == [
        ("r.toml", 12, 6),
        ("--set", 1, 1),
        ("--set", 1, 12),
    ]
    assert found[1].advice == "did you mean `rank`?"
    assert render(found[2]).splitlines()[1] == "  1 | train.rank=0"


@pytest.mark.parametrize("text", ["train.lr", "=1", "a..b=1", "lr=[1", 'lr="x', "lr=1\nb=2"])
def test_broken_overrides(bench: Bench, text: str) -> None:
    with pytest.raises(BadInput, match="--set"):
        bench.prepare(GOOD, text)


def test_an_ambiguous_short_override(bench: Bench) -> None:
    text = 'kind = "quantize"\nmodel = "smollm2-135m-instruct"\n'
    with pytest.raises(BadInput, match="ambiguous") as caught:
        bench.prepare(text, "tokens=512")
    assert caught.value.hint == "write calibration.tokens or eval.tokens"


def test_what_a_refused_step_names_is_looked_up_as_well(bench: Bench) -> None:
    found = bench.mistakes(
        GOOD.replace("smollm2-135m-instruct", "smollm2-135m-instrct")
        .replace('"rows.jsonl"', '"rwos.jsonl"')
        .replace('"lora"', '"lroa"')
        + "lern = 3\n"
    )
    places = [(d.line, d.key) for d in found]
    assert places == [(4, "base"), (7, "data.train"), (11, "train.method"), (13, "train.lern")]
    assert "smollm2-135m-instruct" in found[0].advice
    assert "rows.jsonl" in found[1].advice
