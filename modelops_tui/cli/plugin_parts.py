"""The texts of a new plugin, one part for each extension point; ``$name`` stands for its own.

Each part is working code with a test of its own; `plugin new` writes those that were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """What one extension point adds to a package."""

    group: str
    entry: str
    """``name = "value"`` of the entry point."""
    files: dict[str, str] = field(default_factory=dict)
    """Path -> text."""


_KIND = Part(
    "modelops_tui.kinds",
    '$name = "$module:KIND"',
    {
        "$module/__init__.py": '''\
\"\"\"A kind of step: its keys, and the name of the function that does the work."""

from __future__ import annotations

from engine.kinds import Kind
from engine.recipe.spec import StepSpec


class Spec(StepSpec):
    """Keys of a `$name` step."""

    text: str
    """What to count the words of."""


KIND = Kind(
    name="$name",
    summary="count the words of a text",
    model=Spec,
    run="$module.run:run",
    outputs={"words": "number"},
    lane="cpu",
    api_version=$api,
)
''',
        "$module/run.py": '''\
\"\"\"What the step does. Heavy libraries are imported in here, in the worker."""

from __future__ import annotations

from typing import Any

from engine.worker.context import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Count the words."""
    spec: Any = ctx.params
    return StepResult({"words": float(count(spec.text))})


def count(text: str) -> int:
    """Words of a text."""
    return len(text.split())
''',
        "tests/test_kind.py": '''\
\"\"\"The kind as recipes see it."""

from __future__ import annotations

from engine.plugins import extensions
from engine.recipe import prepare
from $module.run import count


def test_a_recipe_of_it_is_accepted() -> None:
    assert "$name" in extensions("kind").objects
    plan = prepare('recipe = 1\\nname = "x"\\nkind = "$name"\\ntext = "a b c"\\n')
    assert plan.steps[0].params["text"] == "a b c"


def test_it_counts() -> None:
    assert count("a b  c") == 3
''',
    },
)

_METRIC = Part(
    "modelops_tui.metrics",
    '$name-exact = "$module.metric:exact"',
    {
        "$module/metric.py": '''\
\"\"\"A metric: scores answers against references. `metrics = ["$name-exact"]` in `evaluate`."""

from __future__ import annotations


def exact(answers: list[str], references: list[str]) -> float:
    """Share of answers that are their reference, apart from space around them."""
    pairs = list(zip(answers, references, strict=True))
    return sum(a.strip() == r.strip() for a, r in pairs) / max(1, len(pairs))
''',
        "tests/test_metric.py": '''\
\"\"\"The metric as `evaluate` uses it."""

from __future__ import annotations

from recipes.evaluate.schema import EvaluateSpec
from recipes.evaluate.scores import plugin_score


def test_evaluate_takes_it() -> None:
    spec = EvaluateSpec(kind="evaluate", model="smollm2", metrics=["$name-exact"])
    assert spec.metrics == ["$name-exact"]
    assert plugin_score("$name-exact", ["yes ", "no"], ["yes", "maybe"]) == 0.5
''',
    },
)

_JUDGE = Part(
    "modelops_tui.judges",
    '$name-judge = "$module.judge:judge"',
    {
        "$module/judge.py": '''\
\"\"\"A judge: scores one answer from 0 to 1. `judge = "$name-judge"` in `evaluate`."""

from __future__ import annotations


def judge(prompt: str, answer: str, reference: str) -> float:
    """1.0 for an answer no longer than twice its reference, less for longer ones."""
    del prompt
    return min(1.0, 2 * max(1, len(reference)) / max(1, len(answer)))
''',
        "tests/test_judge.py": '''\
\"\"\"The judge as `evaluate` finds it."""

from __future__ import annotations

from recipes.evaluate.scores import load_judge


def test_long_answers_cost() -> None:
    judge = load_judge("$name-judge")
    assert judge("?", "short", "short") == 1.0
    assert judge("?", "x" * 100, "short") == 0.1
''',
    },
)

_REWARD = Part(
    "modelops_tui.rewards",
    '$name-brief = "$module.reward:brief"',
    {
        "$module/reward.py": '''\
\"\"\"A reward for GRPO: `preference.reward = "$name-brief"` in `finetune`."""

from __future__ import annotations

from collections.abc import Sequence


def brief(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """More for fewer words: 1 for none, 0 from 100 on."""
    del prompts
    return [max(0.0, 1 - len(answer.split()) / 100) for answer in answers]
''',
        "tests/test_reward.py": '''\
\"\"\"The reward as GRPO finds it."""

from __future__ import annotations

from typing import Any, cast

from recipes.finetune.reward_model import find_reward


def test_grpo_takes_it() -> None:
    reward = find_reward("$name-brief", cast(Any, None))
    assert reward(["?", "?"], ["", "one two"]) == [1.0, 0.98]
''',
    },
)

_READER = Part(
    "modelops_tui.readers",
    '$name-reader = "$module.reader:read"',
    {
        "$module/reader.py": '''\
\"\"\"A reader: `rag` uses it for every file with one of its suffixes."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """The text of a file of `key = value` lines, one sentence each."""
    lines = [line.partition("=") for line in path.read_text("utf-8").splitlines() if "=" in line]
    return "\\n".join(f"{key.strip()} is {value.strip()}." for key, _, value in lines)


read.suffixes = (".$module",)  # type: ignore[attr-defined]
''',
        "tests/test_reader.py": '''\
\"\"\"The reader as an index uses it."""

from __future__ import annotations

from pathlib import Path

from recipes.rag.readers import read_document


def test_an_index_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "facts.$module"
    file.write_text("the sky = blue\\n")
    assert read_document(file).text == "the sky is blue."
''',
    },
)

_EXPORTER = Part(
    "modelops_tui.exporters",
    '$name-form = "$module.exporter:export"',
    {
        "$module/exporter.py": '''\
\"\"\"An exporter: `target = "$name-form"` in `export`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def export(model: Path, target: Path) -> None:
    """Write the model's files and a list of them into `target` (files only, no folders).

    Args:
        model: a Hugging Face folder, adapters merged.
        target: an empty folder.
    """
    names = sorted(f.name for f in model.iterdir() if f.suffix in (".json", ".safetensors"))
    for name in names:
        shutil.copyfile(model / name, target / name)
    (target / "contents.json").write_text(json.dumps(names))
''',
        "tests/test_exporter.py": '''\
\"\"\"The exporter as `export` uses it."""

from __future__ import annotations

from pathlib import Path

from engine.plugins import extensions
from recipes.export.schema import ExportSpec


def test_export_takes_it(tmp_path: Path) -> None:
    assert ExportSpec(kind="export", model="smollm2", target="$name-form").target == "$name-form"
    model, target = tmp_path / "model", tmp_path / "target"
    model.mkdir()
    target.mkdir()
    (model / "config.json").write_text("{}")
    extensions("exporter").get("$name-form")(model, target)
    assert (target / "contents.json").read_text() == '["config.json"]'
''',
    },
)

#: Extension point -> its part; those of ``plugin_processes`` are added by the template.
PARTS: dict[str, Part] = {
    "kind": _KIND,
    "metric": _METRIC,
    "judge": _JUDGE,
    "reward": _REWARD,
    "reader": _READER,
    "exporter": _EXPORTER,
}
