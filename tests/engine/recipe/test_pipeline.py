"""Pipelines: inferred order, references, vars, gates, sweeps and the pick."""

from __future__ import annotations

import math
from typing import Any

import pytest

from engine.errors import BadInput
from engine.recipe import gates, graph, picks, refs
from engine.recipe.plan import Plan
from tests.engine.recipe.conftest import Bench

HEAD = """\
recipe = 1
name = "bot"
kind = "pipeline"

[vars]
base = "smollm2-135m-instruct"
rank = 8
"""
STEPS = """
[steps.shrink]
uses = "quantize"
model = "${train.model}"
levels = ["Q8_0"]
eval = { data = "held.jsonl", neutral = "plain.txt" }
require = { "check.perplexity" = "<= 12" }

[steps.check]
uses = "evaluate"
model = "${train.model}"
data = "held.jsonl"
neutral = "plain.txt"

[steps.train]
uses = "finetune"
base = "${vars.base}"
data = { train = "rows.jsonl", format = "chat" }
[steps.train.train]
rank = "${vars.rank}"
"""


def test_order_is_inferred_and_vars_keep_their_type(bench: Bench) -> None:
    plan = bench.prepare(HEAD + STEPS)
    assert [s.name for s in plan.steps] == ["train", "check", "shrink"]
    assert [s.needs for s in plan.steps] == [(), ("train",), ("train", "check")]
    assert plan.step("train").params["train"]["rank"] == 8
    assert plan.step("check").params["model"] == "${train.model}"
    assert plan.step("shrink").require == {"check.perplexity": "<= 12"}
    assert plan.warnings == ()


def test_short_overrides_reach_into_steps(bench: Bench) -> None:
    plan = bench.prepare(
        HEAD + STEPS, "train.lr=1e-3", "steps.train.train.rank=2", "vars.base=smollm2"
    )
    train = plan.step("train").params
    assert (train["train"]["lr"], train["train"]["rank"], train["base"]) == (1e-3, 2, "smollm2")
    with pytest.raises(BadInput, match="no step `trian`") as caught:
        bench.prepare(HEAD + STEPS, "trian.lr=1")
    assert "train" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "what", "advice"),
    [
        ("${train.model}", "${trian.model}", "there is no step `trian`", "did you mean `train`?"),
        (
            "${train.model}",
            "${train.modle}",
            "step `train` (finetune) has no output `modle`",
            "did you mean `model`?",
        ),
        (
            '"${train.model}"',
            '"${check.loss}"',
            "`check.loss` is a number, this key takes a model",
            "",
        ),
        ("${train.model}", "${train}", "`${train}` is no reference", "write ${step.output}"),
        ("${train.model}", "${1 + 1}", "`${1 + 1}` is no reference", "write ${step.output}"),
        (
            "${vars.base}",
            "${vars.bse}",
            "there is no variable `vars.bse`",
            "did you mean `base`?",
        ),
    ],
)
def test_references_that_lead_nowhere(
    bench: Bench, old: str, new: str, what: str, advice: str
) -> None:
    text = (HEAD + STEPS).replace(old, new, 1)
    found = [d for d in bench.mistakes(text) if d.what == what]
    assert len(found) == 1, bench.mistakes(text)
    assert found[0].advice.startswith(advice)
    line = text.splitlines()[found[0].line - 1]
    assert line[found[0].column - 1 :].startswith(f'"{new.strip(chr(34))}"')


def test_a_cycle_is_named(bench: Bench) -> None:
    text = (HEAD + STEPS).replace('"${vars.base}"', '"${shrink.model}"')
    found = bench.mistakes(text)[0]
    assert found.what == ("the steps wait for each other: shrink -> train -> shrink"), (
        bench.mistakes(text)
    )


def test_mistakes_of_a_pipelines_frame(bench: Bench) -> None:
    text = """\
kind = "pipeline"
stesp = 1
[steps.a]
uses = "finetun"
[steps.b]
model = "x"
[steps."bad name"]
uses = "evaluate"
model = "smollm2"
data = "held.jsonl"
neutral = "plain.txt"
[steps.vars]
uses = "pipeline"
[steps.c]
uses = "evaluate"
model = "smollm2"
data = "held.jsonl"
neutral = "plain.txt"
require = { "bad name.loss" = "<= 1", "a.loss" = "small", "c.loss" = ">1" }
"""
    whats = [(d.line, d.what) for d in bench.mistakes(text)]
    assert (2, "unknown key `stesp` in a pipeline") in whats
    assert (4, 'there is no kind "finetun"') in whats
    assert (5, "step `b` does not say its kind: `uses`") in whats
    assert (7, "`bad name` can't be a step's name") in whats
    assert (12, "`vars` means something else in references") in whats
    assert (13, "a pipeline can't be a step") in whats
    assert (19, "'small' is no gate") in whats
    assert (19, "step `c` refers to itself") in whats


def test_unused_variables_are_a_warning(bench: Bench) -> None:
    plan = bench.prepare((HEAD + STEPS).replace("rank = 8", "rank = 8\nextra = 1"))
    (warning,) = plan.warnings
    assert (warning.line, warning.what) == (8, "the variable `extra` is not used")


def test_env_stays_a_reference(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_BASE", "do-not-store-me")
    plan = bench.prepare((HEAD + STEPS).replace("${vars.base}", "${env:SECRET_BASE}"))
    assert plan.step("train").params["base"] == "${env:SECRET_BASE}"
    assert "do-not-store-me" not in str(plan.to_json())
    found = bench.mistake((HEAD + STEPS).replace("${vars.rank}", "${env:RANK}"))
    assert found.advice == "an environment variable is text: it can't stand here"


SWEEP = HEAD.replace(
    "[vars]",
    'pick = "min check.perplexity"\n[matrix]\n"train.lr" = [1e-4, 2e-4]\n'
    "vars.rank = [4, 8]\n[vars]",
)


def test_a_sweep_copies_up_to_the_pick(bench: Bench) -> None:
    plan = bench.prepare(SWEEP + STEPS)
    names = [step.name for step in plan.steps]
    assert sorted(names) == sorted(
        [f"{name}@{n}" for n in range(1, 5) for name in ("train", "check")] + ["shrink"]
    )
    assert names[-1] == "shrink"
    assert plan.pick == "min check.perplexity"
    third = plan.step("train@3")
    assert third.point == {"train.lr": 2e-4, "vars.rank": 4}
    assert (third.params["train"]["lr"], third.params["train"]["rank"]) == (2e-4, 4)
    assert plan.step("check@3").params["model"] == "${train@3.model}"
    assert plan.step("check@3").needs == ("train@3",)
    shrink = plan.step("shrink")
    assert shrink.params["model"] == "${pick.train.model}"
    assert shrink.require == {"pick.check.perplexity": "<= 12"}
    assert set(shrink.needs) == set(names) - {"shrink"}
    assert shrink.point is None


def outputs_of(plan: Plan, perplexities: list[float]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, value in enumerate(perplexities, 1):
        found[f"train@{number}"] = {"model": f"sha256:{number:064x}", "loss": 1.0 / number}
        found[f"check@{number}"] = {"perplexity": value}
    return found


@pytest.mark.parametrize(
    ("values", "picked"),
    [([9, 7, 8, 7.5], 2), ([7, 7, 8, 9], 1), ([math.nan, 9, 8.5, 10], 3)],
)
def test_the_picked_points_outputs_go_on(bench: Bench, values: list[float], picked: int) -> None:
    plan = bench.prepare(SWEEP + STEPS)
    outputs = outputs_of(plan, values)
    assert picks.choose(plan, outputs) == picks.choose(plan.to_json(), outputs) == picked
    shrink = plan.step("shrink")
    filled = refs.fill(shrink.params, outputs, plan)
    assert filled["model"] == f"sha256:{picked:064x}"
    assert gates.failures(shrink.require, outputs, plan) == ()
    table = picks.table(plan, outputs)
    assert table is not None
    assert table["columns"][:3] == ["point", "train.lr", "vars.rank"]
    assert [row[-1] for row in table["rows"]].index("*") == picked - 1


def test_no_value_no_pick(bench: Bench) -> None:
    plan = bench.prepare(SWEEP + STEPS)
    with pytest.raises(BadInput, match="no point of the matrix has a value"):
        picks.choose(plan, outputs_of(plan, [math.nan] * 4))


def test_a_sweep_of_one_kind(bench: Bench) -> None:
    text = """\
kind = "finetune"
base = "smollm2"
data = { train = "rows.jsonl", eval = "held.jsonl" }
[matrix]
lr = [1e-4, 5]
pick = "min eval_loss"
"""
    found = bench.mistake(text)
    assert (found.line, found.column, found.length) == (5, 13, 1), "the value in the matrix"
    plan = bench.prepare(text.replace("5]", "5e-4]"))
    assert [s.name for s in plan.steps] == ["finetune@1", "finetune@2"]
    assert [s.params["train"]["lr"] for s in plan.steps] == [1e-4, 5e-4]
    assert plan.pick == "min finetune.eval_loss"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"train.lr" = [1e-4, 2e-4]', '"train.lr" = 1e-4', "`train.lr` needs a list of values"),
        ('"train.lr" = [1e-4, 2e-4]', '"train.lr" = []', "`train.lr` needs a list of values"),
        ('"train.lr" = [1e-4, 2e-4]', '"train.lr" = [1, 1]', "`train.lr` has a value twice"),
        (
            '"train.lr" = [1e-4, 2e-4]',
            '"shrink.format" = ["gguf", "bnb-nf4"]',
            "`shrink.format` has no influence on the pick `min check.perplexity`",
        ),
        ('"train.lr"', '"trian.lr"', "`trian.lr` is no key that can be varied"),
        ("vars.rank", "vars.rnk", "there is no variable `rnk`"),
        ("vars.rank", "vars", "there is no variable ``"),
        ("min check.perplexity", "least check.perplexity", "'least check.perplexity' is no pick"),
        ("min check.perplexity", "min chek.perplexity", "there is no step `chek`"),
        ("min check.perplexity", "min check.report", "step `check` (evaluate) has no number"),
    ],
)
def test_mistakes_in_a_sweep(bench: Bench, old: str, new: str, what: str) -> None:
    found = bench.mistakes((SWEEP + STEPS).replace(old, new, 1))
    assert [d.what for d in found if d.what.startswith(what)], found
    assert found[0].line in (5, 6, 7, 8, 9, 10)


def test_too_many_points(bench: Bench) -> None:
    many = ", ".join(str(n) for n in range(1, 150))
    text = (SWEEP + STEPS).replace("[4, 8]", f"[{many}]")
    assert "steps, at most 200 are allowed" in bench.mistakes(text)[0].what


def test_mistakes_are_told_once_for_all_points(bench: Bench) -> None:
    text = (SWEEP + STEPS).replace("${train.model}", "${train.modle}")
    found = [d for d in bench.mistakes(text) if "modle" in d.what]
    assert len(found) == 2, "one for each place in the file, not for each point"


def test_filling(bench: Bench) -> None:
    outputs = {"a": {"model": "sha256:1", "loss": 1.5, "merged": None}}
    params = {"x": "${a.model}", "n": ["${a.loss}", "loss ${a.loss}!"], "e": "${env:X} $${a}"}
    assert refs.fill(params, outputs) == {
        "x": "sha256:1",
        "n": [1.5, "loss 1.5!"],
        "e": "${env:X} $${a}",
    }
    with pytest.raises(BadInput, match=r"\$\{a.merged\} has no value"):
        refs.fill({"x": "${a.merged}"}, outputs)
    with pytest.raises(BadInput, match="no outputs yet"):
        refs.fill({"x": "${b.model}"}, outputs)


@pytest.mark.parametrize(
    ("gate", "value", "passes"),
    [
        ("<= 12", 12.0, True),
        ("< 12", 12.0, False),
        (">= 1e-3", 0.001, True),
        ("== 2", 2.0, True),
        ("!=2", 2.0, False),
        (">-1", math.nan, False),
        ("<= 12", math.inf, False),
    ],
)
def test_gates(gate: str, value: float, passes: bool) -> None:
    failures = gates.failures({"check.perplexity": gate}, {"check": {"perplexity": value}})
    assert (not failures) == passes


def test_a_gate_that_fails_says_the_number() -> None:
    (failure,) = gates.failures({"c.perplexity": "<= 12"}, {"c": {"perplexity": 13.456789}})
    assert str(failure) == "c.perplexity is 13.4568, it must be <= 12"


def test_the_graph() -> None:
    needs = {"a": ["b"], "b": ["c"], "c": [], "d": ["a", "x"]}
    assert graph.order(needs) == ["c", "b", "a", "d"]
    assert graph.find_cycle(needs) == []
    assert graph.find_cycle({"a": ["b"], "b": ["a"]}) == ["a", "b", "a"]
    assert graph.descendants(needs, {"b"}) == {"a", "b", "d"}
    assert graph.ancestors(needs, "a") == {"a", "b", "c"}
