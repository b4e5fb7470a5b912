"""lm-eval tasks from a folder, run offline with the tiny model; those naming code are refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

import recipes.harness
from engine.errors import BadInput, NotFound
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.registry import Registry
from recipes.harness.check import check
from recipes.harness.run import Line, mean_score
from recipes.harness.schema import HarnessSpec, bundled_tasks
from recipes.harness.tasks import read_tasks
from tests.support.step import events, run_step

CHOICE = """
task: colours
include: _common.yaml
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: label
dataset_kwargs:
  data_files:
    test: rows/colours.jsonl
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
PERPLEXITY = """
task: prose
include: _common.yaml
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
dataset_kwargs: {data_files: {test: rows/prose.jsonl}}
metric_list:
  - metric: byte_perplexity
"""


def jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "_common.yaml").write_text("dataset_path: json\ntest_split: test\n")
    (folder / "colours.yaml").write_text(CHOICE)
    (folder / "prose.yaml").write_text(PERPLEXITY)
    # the same word is right in every row: a model that always likes it best is right always, and
    # one that never does is right never
    row = {"question": "Which colour?", "choices": ["License", "zebra quartz"]}
    jsonl(folder / "rows/colours.jsonl", [{**row, "label": 0}] * 4 + [{**row, "label": 1}] * 2)
    jsonl(folder / "rows/prose.jsonl", [{"text": "The licence applies to every file."}] * 2)
    return folder


def test_a_model_is_scored_beside_another(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    params = {"model": str(tiny_model), "base": str(tiny_model), "tasks": str(tasks), "batch": 2}
    result = run_step(home, "lm-eval", params, step="check")
    # rows are equal but for their label: 4 of 6 are right, or 2 of 6
    assert result.outputs["score"] in (pytest.approx(4 / 6), pytest.approx(2 / 6))
    assert result.outputs["score"] == result.outputs["base_score"]
    (table,) = result.report
    assert [row[0] for row in table["rows"]] == [
        *("colours acc", "prose byte_perplexity"),
        "mean over tasks",
    ]
    assert table["columns"][0] == "measure"
    assert len(table["columns"]) == 4
    assert table["rows"][0][3] == "+0.0 %"
    assert table["rows"][1][1] > 1
    assert "6 rows" in table["notes"][0]
    assert "lower is better" in table["notes"][1]
    paths = StatePaths(home)
    folder = Registry.open(paths).materialize(str(result.outputs["report"]))
    saved = json.loads((folder / "report.json").read_text())
    assert saved["numbers"]["colours/acc"] == result.outputs["score"]
    assert events(home, "table")


def test_one_task_with_few_rows(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    params = {"model": str(tiny_model), "tasks": str(tasks), "names": ["colours"], "limit": 3}
    result = run_step(tmp_path / "home", "lm-eval", params, step="check")
    assert result.outputs["score"] in (0.0, 1.0)
    assert "3 rows" in result.report[0]["notes"][0]


def test_what_the_hub_would_bring_is_refused(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    text = CHOICE.replace("metric: acc\n", "metric: bertscore_of_the_hub\n")
    (tasks / "colours.yaml").write_text(text)
    with pytest.raises(BadInput, match="no metric 'bertscore_of_the_hub'"):
        run_step(tmp_path / "home", "lm-eval", {"model": str(tiny_model), "tasks": str(tasks)})


def test_a_template_can_not_reach_python(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    mark = tmp_path / "reached"
    evil = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    open_it = f"{{{{ lipsum.__globals__['os'].mkdir('{mark}') }}}}"
    for attack in (evil, open_it):
        text = CHOICE.replace('doc_to_text: "{{question}}\\nAnswer:"', f'doc_to_text: "{attack}"')
        assert attack in text
        (tasks / "colours.yaml").write_text(text)
        with pytest.raises(Exception, match=r"unsafe|undefined"):
            run_step(
                tmp_path / "home",
                "lm-eval",
                {"model": str(tiny_model), "tasks": str(tasks), "names": ["colours"]},
            )
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("doc_to_target: label", "doc_to_target: !function evil.py"), "never run"),
        (("task: colours", "task: colours\nclass: evil.Task"), "names code"),
        (("rows/colours.jsonl", "../../../etc/passwd"), "outside its folder"),
        (("rows/colours.jsonl", "https://example.org/x.jsonl"), "not a file"),
        (("rows/colours.jsonl", "rows/gone.jsonl"), "not there"),
        (("include: _common.yaml", "dataset_path: squad"), "never downloads"),
        (("task: colours", "group: all"), "a group of tasks"),
        (("task: colours", "task: prose"), "two files"),
        (("task: colours", "task: [broken"), "can't be read"),
    ],
)
def test_a_task_that_can_not_be_trusted_is_refused(
    tasks: Path, change: tuple[str, str], said: str
) -> None:
    assert change[0] in CHOICE
    (tasks / "colours.yaml").write_text(CHOICE.replace(*change))
    with pytest.raises((BadInput, NotFound), match=said):
        read_tasks(tasks)


def test_mistakes_are_found_before_the_run(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    context = CheckContext(StatePaths(tmp_path / "home"), tmp_path, "check")
    spec = HarnessSpec(model=str(tiny_model), tasks=str(tasks), names=["colour"])
    (problem,) = check(spec, context)
    assert problem.path == ("names",)
    assert "did you mean colours?" in problem.advice
    gone = HarnessSpec(model="nobody@prod", tasks=str(tmp_path / "none"))
    assert [p.path for p in check(gone, context)] == [("model",), ("tasks",)]


def test_the_mean_counts_tasks_alike() -> None:
    lines = [
        Line("a", "acc", 0.5, None, True, 10),
        Line("a", "acc_norm", 0.9, None, True, 10),
        Line("b", "exact_match", 1.0, None, True, 1000),
        Line("c", "perplexity", 30.0, None, False, 5),
    ]
    assert mean_score(lines) == 0.75
    assert mean_score(lines[3:]) is None


def test_the_ready_recipe_runs_the_bundled_tasks(tmp_path: Path, tiny_model: Path) -> None:
    text = (Path(recipes.harness.__file__).parent / "lm-eval.toml").read_text()
    values = {k: v for k, v in tomllib.loads(text).items() if k not in ("recipe", "name", "kind")}
    spec = HarnessSpec.model_validate(values)
    assert check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "lm-eval")) == []
    values |= {"model": str(tiny_model), "limit": 4}
    result = run_step(tmp_path / "home", "lm-eval", values, step="lm-eval")

    (table,) = result.report
    names = " ".join(str(row[0]) for row in table["rows"])
    assert "house-answers" in names
    assert "neutral-prose" in names
    assert 0 <= float(result.outputs["score"]) <= 1
    # the rows: one right answer of four each, at every place
    folder = bundled_tasks() / "rows" / "house.jsonl"
    rows = [json.loads(line) for line in folder.read_text().splitlines()]
    assert {row["label"] for row in rows} == {0, 1, 2, 3}
    assert all(len(set(row["choices"])) == 4 for row in rows)
