"""Every setting of a run in a real tiny run, its card, its plugins; every absurd number refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from engine.errors import BadInput
from engine.paths import StatePaths
from engine.plugins import extensions
from engine.recipe.check import CheckContext
from engine.registry import Registry
from recipes.finetune import watching
from recipes.finetune.building import check_targets
from recipes.finetune.check import check
from recipes.finetune.schema import (
    FinetuneData,
    FinetuneSpec,
    Method,
    PreferenceSection,
    TrainSection,
)
from tests.support.step import events, run_step
from tests.support.tiny_model import build_tiny_model, write_jsonl

READY = Path(__file__).resolve().parents[3] / "recipes" / "finetune"


def recipe(model: Path, rows: Path, **train: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 128},
        "train": {"lr": 1e-2, "max_steps": 6, "samples": 0, "precision": "fp32", **train},
    }


def losses(home: Path) -> list[float]:
    (file,) = (StatePaths(home).step_work("job1", "train") / "checkpoints").glob("*/watch.json")
    return [loss for _, loss in json.loads(file.read_text())["losses"]]


@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [
        ("adamw-8bit", 1e-2),
        ("adamw-paged-8bit", 1e-2),
        ("lion-8bit", 3e-3),
        ("adafactor", 1e-2),
        ("sgd", 1.0),
    ],
)
def test_every_optimizer_learns(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, optimizer: str, lr: float
) -> None:
    params = recipe(tiny_model, tiny_chat, optimizer=optimizer, lr=lr)
    run_step(tmp_path, "finetune", params)
    found = losses(tmp_path)
    assert len(found) == 6
    assert found[-1] < found[0] - 0.1


@pytest.mark.parametrize(
    "more",
    [
        {"checkpointing": True},
        pytest.param({"kernels": "plain"}, marks=pytest.mark.nightly),
        pytest.param({"padding_free": True}, marks=pytest.mark.nightly),
        pytest.param({"compile": True}, marks=pytest.mark.nightly),
    ],
)
def test_settings_that_change_the_work_and_not_the_result(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, more: dict[str, Any]
) -> None:
    run_step(tmp_path / "usual", "finetune", recipe(tiny_model, tiny_chat))
    run_step(tmp_path / "other", "finetune", recipe(tiny_model, tiny_chat, **more))
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "usual"), abs=2e-3)


def test_rows_of_similar_length_share_a_batch(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every step is told, however quick
    monkeypatch.setattr(watching, "_MIN_EVENT_GAP", 0.0)
    rows = [
        {"prompt": f"question {i}", "completion": "yes " * (2 if i % 2 else 30)} for i in range(64)
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    seen: dict[bool, tuple[int, int]] = {}
    for grouped in (False, True):
        home = tmp_path / str(grouped)
        params = recipe(tiny_model, file, batch=2, group_by_length=grouped, max_steps=32)
        run_step(home, "finetune", params)
        total = [e["tokens_seen"] for e in events(home, "metrics") if "loss" in e]
        widths = [after - before for before, after in zip([0, *total], total, strict=False)]
        # a long row and a short one: neither wide nor narrow
        middle = (max(widths) + min(widths)) / 2
        mixed = sum(abs(width - middle) < middle / 4 for width in widths)
        seen[grouped] = (total[-1], mixed)
    assert seen[True][0] == seen[False][0]
    assert seen[True][1] < seen[False][1] / 2, seen


def plug_in(folder: Path, module: str, groups: str, code: str) -> None:
    """What pip writes: a module with its entry points."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(groups)


@pytest.fixture
def found_anew() -> Iterator[None]:
    """Plugins are looked for once in a process: earlier tests have looked."""
    extensions.cache_clear()
    yield
    extensions.cache_clear()


@pytest.mark.usefixtures("found_anew")
def test_a_reward_that_is_plugged_in_trains_grpo(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    plug_in(
        tmp_path,
        "lengths_of_answers",
        "[modelops_tui.rewards]\nshort = lengths_of_answers:short\n",
        "def short(prompts, answers):\n"
        "    assert len(prompts) == len(answers)\n"
        "    return [-float(len(a)) for a in answers]\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": f"Say {i}."} for i in range(8)])
    params = recipe(tiny_model, prompts, method="grpo", max_steps=2, batch=4)
    params["preference"] = {"reward": "short", "generations": 4, "answer_tokens": 6}
    run_step(tmp_path / "home", "finetune", params)
    rewards = [e["reward"] for e in events(tmp_path / "home", "metrics") if "reward" in e]
    assert rewards
    assert all(value < 0 for value in rewards)


@pytest.mark.usefixtures("found_anew")
def test_a_judge_that_is_plugged_in_scores_answers(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(
        tmp_path,
        "half_a_judge",
        "[modelops_tui.judges]\nhalf = half_a_judge:half\n",
        "def half(prompt, answer, reference):\n    assert prompt and reference\n    return 0.5\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    params = {
        "model": str(tiny_model),
        "data": str(tiny_chat),
        "metrics": ["judge"],
        "judge": "half",
        "metric_rows": 3,
        "samples": 0,
    }
    result = run_step(tmp_path / "home", "evaluate", params)
    shown = {str(row[0]): row[1] for table in result.report for row in table["rows"]}
    assert shown["judge"] == 0.5


def test_the_card_says_what_happened(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    params = recipe(tiny_model, tiny_chat, rank=8, batch=4, accumulate=2, merge=True, samples=1)
    params["data"] |= {"eval_fraction": 0.25}
    result = run_step(tmp_path, "finetune", params)
    registry = Registry.open(StatePaths(tmp_path))
    card = registry.manifest(str(result.outputs["model"])).card
    report = json.loads(
        (registry.materialize(str(result.outputs["model"])) / "data_report.json").read_text()
    )
    for words in (
        "A LoRA adapter made from",
        "by lora",
        f"data: {tiny_chat.name}",
        "6 steps, batch 4 x 2, learning rate 0.01 (cosine), seed 42",
        "rank 8, alpha 16, all-linear",
        f"training loss {result.outputs['loss']:.4f}",
        f"held-out loss {result.outputs['eval_loss']:.4f}",
        f"{report['used']} of {report['rows']} rows used",
        "- before: ",
        "- after: ",
    ):
        assert words in card, (words, card)
    merged = registry.manifest(str(result.outputs["merged"]))
    assert "A merged model made from" in merged.card
    assert [parent.manifest for parent in merged.parents] == [result.outputs["model"]]


def numbers(section: type) -> list[str]:
    """Keys of a section that take a number."""

    def takes(info: FieldInfo) -> bool:
        parts = [info.annotation, *get_args(info.annotation)]
        inner = [x for part in parts for x in (part, *get_args(part))]
        return int in inner or float in inner

    return [name for name, info in section.model_fields.items() if takes(info)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [-1, -0.5, 10**15, float("inf"), float("nan"), "4", True])
def test_no_absurd_number_passes(value: object) -> None:
    checked = 0
    for section, kind in (
        ("data", FinetuneData),
        ("train", TrainSection),
        ("preference", PreferenceSection),
    ):
        for key in numbers(kind):
            sections: dict[str, dict[str, Any]] = {"data": {"train": "x"}, "train": {}}
            sections.setdefault(section, {})[key] = value
            with pytest.raises(ValidationError) as caught:
                FinetuneSpec.model_validate({"base": "x", **sections})
            assert key in {part for e in caught.value.errors() for part in e["loc"]}, key
            checked += 1
    assert checked > 20


def test_a_base_whose_tokenizer_never_ends_is_refused(tmp_path: Path, tiny_chat: Path) -> None:
    base = build_tiny_model(tmp_path / "endless")
    config = base / "tokenizer_config.json"
    values = json.loads(config.read_text())
    values.pop("eos_token")
    config.write_text(json.dumps(values))
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="has no end token"):
        run_step(tmp_path / "home", "finetune", recipe(base, tiny_chat))


def test_targets_are_checked_against_the_loaded_model(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    check_targets(model, ["q_proj", "layers.0.mlp.up_proj"])
    with pytest.raises(BadInput, match="no module is called 'query'") as caught:
        check_targets(model, ["q_proj", "query"])
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in caught.value.why


@pytest.mark.usefixtures("roomy_disk")
def test_every_method_has_a_ready_recipe_that_is_valid(tmp_path: Path) -> None:
    found = {}
    for file in READY.glob("*.toml"):
        values = tomllib.loads(file.read_text())
        if values["kind"] == "finetune":
            kept = {k: v for k, v in values.items() if k not in ("recipe", "name")}
            spec = FinetuneSpec.model_validate(kept)
            assert check(spec, CheckContext(StatePaths(tmp_path), tmp_path, "t")) == [], file.name
            found[spec.train.method] = file.stem
    assert found == {method: method for method in get_args(Method)}
