"""Preference methods on the tiny model: each learns what its rows prefer, or says why not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, NotFound
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.registry import Registry
from recipes.finetune.reward_model import house_style
from recipes.finetune.schema import FinetuneSpec
from tests.support.step import events, run_step
from tests.support.tiny_model import TOPICS, write_jsonl

pytest.importorskip("trl", reason="the extra 'preference' is not installed")


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"May I use {TOPICS[i % 7]} {i}?",
            "chosen": f"Yes, you may use {TOPICS[i % 7]}.",
            "rejected": f"No copy of {TOPICS[(i + 3) % 7]} under any terms, never, {i}",
        }
        for i in range(count)
    ]


def recipe(model: Path, rows: Path, method: str, **more: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 256, **more.pop("data", {})},
        "train": {
            "method": method,
            "lr": 2e-3,
            "max_steps": 8,
            "samples": 1,
            **more.pop("train", {}),
        },
        "preference": more.pop("preference", {}),
    }


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_pairs_are_learned(tmp_path: Path, tiny_model: Path, method: str) -> None:
    rows = write_jsonl(tmp_path / "pairs.jsonl", pairs(24))
    held = write_jsonl(tmp_path / "held.jsonl", pairs(31)[24:])
    settings = recipe(
        tiny_model, rows, method, data={"eval": str(held)}, train={"keep": "best", "eval_every": 4}
    )
    result = run_step(tmp_path / "home", "finetune", settings)
    measured = [e for e in events(tmp_path / "home", "metrics") if "eval_loss" in e]
    assert [e["done"] for e in measured] == [4, 8]
    assert result.outputs["eval_loss"] == min(e["eval_loss"] for e in measured)
    assert measured[1]["eval_loss"] < measured[0]["eval_loss"]
    told = [e for e in events(tmp_path / "home", "metrics") if "loss" in e]
    assert told[-1]["done"] == 8
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["reward_accuracy"] == 1.0
    assert told[-1]["tokens_seen"] > 0
    view = Registry.open(StatePaths(tmp_path / "home")).resolve(str(result.outputs["model"]))
    assert view.artifact_type == "adapter"
    assert view.metrics["reward_margin"] > 0
    assert view.metrics["eval_reward_accuracy"] == 1.0
    assert resolve_model(view.id, StatePaths(tmp_path / "home")).kind == "adapter"


def test_kto_learns_from_thumbs(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {
            "prompt": p["prompt"],
            "completion": p["chosen"] if i % 2 else p["rejected"],
            "label": bool(i % 2),
        }
        for i, p in enumerate(pairs(24))
    ]
    file = write_jsonl(tmp_path / "thumbs.jsonl", rows)
    settings = recipe(tiny_model, file, "kto", data={"eval_fraction": 0.25})
    result = run_step(tmp_path / "home", "finetune", settings)
    assert 0 < result.outputs["eval_loss"] < 0.5
    told = [e for e in events(tmp_path / "home", "metrics") if "loss" in e]
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["reward_margin"] > 0


def test_reward_heads_side_by_side_and_grpo_with_one(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("snntorch")
    rows = write_jsonl(tmp_path / "pairs.jsonl", pairs(40))
    params = recipe(
        tiny_model,
        rows,
        "reward",
        train={"lr": 3e-3, "max_steps": 60},
        preference={"head": "both", "neurons": 32, "ticks": 8},
    )
    result = run_step(tmp_path / "home", "finetune", params, step="reward")
    table = result.report[1]
    assert [row[0] for row in table["rows"]] == ["linear", "spiking"]
    assert all(row[2] >= 0.85 for row in table["rows"]), table["rows"]
    model = str(result.outputs["model"])

    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": p["prompt"]} for p in pairs(8)])
    grpo = recipe(
        tiny_model,
        prompts,
        "grpo",
        train={"max_steps": 2, "samples": 0},
        preference={"reward": model, "generations": 4, "answer_tokens": 8},
    )
    held = write_jsonl(tmp_path / "held.jsonl", [{"prompt": p["prompt"]} for p in pairs(3)])
    grpo["data"]["eval"] = str(held)
    run_step(tmp_path / "home", "finetune", grpo, step="policy")
    told = [e for e in events(tmp_path / "home", "metrics") if e["step"] == "policy"]
    steps = [e for e in told if "reward_std" in e]
    assert steps[-1]["reward_std"] > 0
    assert steps[-1]["grad_norm"] > 0
    assert steps[-1]["tokens_seen"] > 0
    assert "eval_reward_before" in told[0]
    assert math.isfinite(told[0]["eval_reward_before"])
    assert math.isfinite(told[-1]["eval_reward"])
    # three of the eight questions are asked again
    (note,) = [e for e in events(tmp_path / "home", "note") if "flatters" in e["text"]]
    assert "3 held-out rows repeat training rows" in note["text"]


def test_a_reward_model_sees_every_pair_of_its_epochs(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.finetune import reward

    seen: list[int] = []
    real = reward.pairwise_loss

    def counting(chosen: Any, rejected: Any) -> Any:
        seen.append(len(chosen))
        return real(chosen, rejected)

    monkeypatch.setattr(reward, "pairwise_loss", counting)
    rows = write_jsonl(tmp_path / "pairs.jsonl", pairs(20))
    train = {"max_steps": None, "epochs": 2, "batch": 2, "accumulate": 4}
    params = recipe(tiny_model, rows, "reward", train=train)
    run_step(tmp_path / "home", "finetune", params)
    # a fifth of the 20 pairs is held out; two epochs of the other 16, eight at a step
    assert seen == [8, 8, 8, 8]


def test_grpo_answers_a_repeated_prompt_once_where_asked(tmp_path: Path, tiny_model: Path) -> None:
    same = [{"prompt": "May I?"}, {"prompt": "May I?"}, {"prompt": "May he?"}]
    rows = write_jsonl(tmp_path / "p.jsonl", same)
    params = recipe(
        tiny_model,
        rows,
        "grpo",
        data={"duplicates": "drop"},
        train={"max_steps": None, "epochs": 2, "samples": 0},
        preference={"reward": "house-style", "generations": 4, "answer_tokens": 4},
    )
    run_step(tmp_path / "home", "finetune", params)
    totals = {e["total"] for e in events(tmp_path / "home", "metrics") if "reward" in e}
    assert totals == {4}, "two epochs of two prompts"
    long = [{"prompt": "May I? " * 400}, {"prompt": "May he?"}]
    params["data"] = {"train": str(write_jsonl(tmp_path / "l.jsonl", long)), "max_length": 64}
    params["data"]["on_truncate"] = "fail"
    with pytest.raises(BadInput, match="longer than"):
        run_step(tmp_path / "home2", "finetune", params)


def test_grpo_keeps_no_best(tiny_model: Path) -> None:
    section = {"method": "grpo", "keep": "best"}
    params = {"base": str(tiny_model), "data": {"train": "a.jsonl", "eval": "b.jsonl"}}
    with pytest.raises(ValueError, match="before and after training only"):
        FinetuneSpec.model_validate(
            {**params, "train": section, "preference": {"reward": "house-style"}}
        )


def test_the_spiking_head_fires_and_learns_through_spikes() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("snntorch")
    from recipes.finetune.reward_heads import spiking_head

    torch.manual_seed(0)
    head = spiking_head(16, 8, 10)
    values = torch.randn(5, 16) * 3
    rates = head.rates(values).detach()
    assert rates.shape == (5, 8)
    assert 0 < float(rates.mean()) < 1
    assert set((rates * 10).round(decimals=4).flatten().tolist()) <= {float(n) for n in range(11)}
    head(values).sum().backward()
    assert float(head.current.weight.grad.abs().sum()) > 0


def test_rows_of_the_wrong_shape_are_refused(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    with pytest.raises(BadInput, match="'dpo' can't learn from chat rows"):
        run_step(tmp_path / "home", "finetune", recipe(tiny_model, tiny_chat, "dpo"))


def test_an_answer_preferred_to_itself_is_named(tmp_path: Path, tiny_model: Path) -> None:
    rows = pairs(6)
    rows[2]["rejected"] = rows[2]["chosen"]
    file = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(BadInput, match="1 rows prefer an answer to itself") as caught:
        run_step(tmp_path / "home", "finetune", recipe(tiny_model, file, "dpo"))
    assert "row 3" in caught.value.why


def test_labels_of_one_side_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"prompt": "a", "completion": f"b{i}", "label": True} for i in range(5)]
    file = write_jsonl(tmp_path / "k.jsonl", rows)
    with pytest.raises(BadInput, match="every label is true"):
        run_step(tmp_path / "home", "finetune", recipe(tiny_model, file, "kto"))


def test_unbalanced_labels_are_told(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"prompt": f"a{i}", "completion": f"b{i}", "label": i > 1} for i in range(10)]
    file = write_jsonl(tmp_path / "k.jsonl", rows)
    params = recipe(tiny_model, file, "kto", train={"max_steps": 1, "samples": 0})
    run_step(tmp_path / "home", "finetune", params)
    notes = [e["text"] for e in events(tmp_path / "home", "note")]
    assert any(text.startswith("8 wanted and 2 unwanted answers") for text in notes)


def test_an_unknown_reward_is_named(tmp_path: Path, tiny_model: Path) -> None:
    file = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}])
    params = recipe(tiny_model, file, "grpo", preference={"reward": "nobody"})
    with pytest.raises(NotFound, match="no reward 'nobody'") as caught:
        run_step(tmp_path / "home", "finetune", params)
    assert "house-style" in caught.value.why


def test_house_style_reward() -> None:
    good, half, none = "Short: a\nWhy: b\nNext: c", "Short: a\nb", "Well, it depends."
    assert house_style(["q"] * 3, [good, half, none]) == pytest.approx([1.0, 1 / 3, 0.0])


def test_bundled_preferences_prefer_the_house_style() -> None:
    root = Path(__file__).resolve().parents[3] / "assets" / "data" / "house"
    rows = [json.loads(line) for line in (root / "preferences.jsonl").read_text().splitlines()]
    chosen = house_style([""] * len(rows), [row["chosen"] for row in rows])
    rejected = house_style([""] * len(rows), [row["rejected"] for row in rows])
    assert set(chosen) == {1.0}
    assert max(rejected) == 0.0
