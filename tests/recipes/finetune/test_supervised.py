"""Supervised runs on the tiny model: what they publish, tell and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, StepFailed
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.registry import Registry
from recipes.finetune import watching
from tests.support.step import events, run_step
from tests.support.tiny_model import chat_rows, tiny_tokenizer, write_jsonl


def recipe(model: Path, rows: Path, **more: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 128, **more.pop("data", {})},
        "train": {"method": "full", "lr": 3e-3, "samples": 1, "epochs": 4, **more.pop("train", {})},
        **more,
    }


def test_full_training_learns_and_publishes(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", chat_rows(8, 100))
    result = run_step(
        tmp_path / "home",
        "finetune",
        recipe(tiny_model, tiny_chat, data={"eval": str(held)}),
    )
    metrics = [e for e in events(tmp_path / "home", "metrics") if "loss" in e]
    assert metrics[-1]["done"] == metrics[-1]["total"] == 48
    assert result.outputs["loss"] < metrics[0]["loss"] / 2
    assert result.outputs["eval_loss"] < metrics[0]["loss"] / 2
    assert metrics[-1]["tokens_seen"] == pytest.approx(4 * token_count(tmp_path), abs=0)

    paths = StatePaths(tmp_path / "home")
    location = resolve_model(str(result.outputs["model"]), paths)
    assert location.kind == "hf"
    view = Registry.open(paths).resolve(str(result.outputs["model"]))
    assert view.artifact_type == "model"
    assert [rel for rel, _ in view.parents] == ["base"]
    assert view.metrics["eval_loss"] == pytest.approx(float(result.outputs["eval_loss"]))
    names = {p.name for p in location.path.iterdir()}
    assert {"model.safetensors", "chat_template.jinja", "data_report.json", "samples.json"} <= names
    sample = events(tmp_path / "home", "sample")[0]
    assert sample["before"] != sample["after"]
    assert sample["after"].startswith("Number 1"), sample


def token_count(tmp_path: Path) -> int:
    (report,) = [
        e for e in events(tmp_path / "home", "table") if e["title"].startswith("Data report")
    ]
    return int({row[0]: row[1] for row in report["rows"]}["tokens"])


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_adapters_are_published_and_merged(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, method: str
) -> None:
    import torch

    from recipes.loading import load_causal_lm, load_tokenizer

    result = run_step(
        tmp_path / "home",
        "finetune",
        recipe(
            tiny_model,
            tiny_chat,
            train={"method": method, "lr": 1e-2, "epochs": 1, "merge": True, "samples": 0},
        ),
    )
    paths = StatePaths(tmp_path / "home")
    adapter = resolve_model(str(result.outputs["model"]), paths)
    merged = resolve_model(str(result.outputs["merged"]), paths)
    assert (adapter.kind, merged.kind) == ("adapter", "hf")
    assert adapter.root.path.name != ""
    tokenizer = load_tokenizer(adapter, paths=paths)
    ids = tokenizer("you may use the license", return_tensors="pt")["input_ids"]
    base = load_causal_lm(adapter.root, torch.float32, paths=paths)(ids).logits
    tuned = load_causal_lm(adapter, torch.float32, paths=paths)(ids).logits
    whole = load_causal_lm(merged, torch.float32, paths=paths)(ids).logits
    assert (tuned - base).abs().max() > 0.05
    # the merged weights are stored in bf16: 8 bits of mantissa
    assert (tuned - whole).abs().max() < 0.1 * (tuned - base).abs().max() + 0.02
    card = Registry.open(paths).resolve(adapter.manifest or "")
    assert card.license is None


def test_the_loss_is_the_models_own(tiny_model: Path, tiny_chat: Path) -> None:
    """Selecting learned tokens first changes the work, not the number."""
    import torch

    from engine.data.formats import read_examples
    from engine.data.masks import Encoder
    from engine.data.rows import read_rows
    from engine.models import ModelLocation
    from recipes.finetune.batches import PaddedBatch, RowDataset
    from recipes.finetune.loss import can_select, selective_loss
    from recipes.finetune.rows import compact
    from recipes.loading import load_causal_lm, load_tokenizer

    location = ModelLocation("hf", tiny_model, None, "tiny")
    model = load_causal_lm(location, torch.float32)
    encoder = Encoder(load_tokenizer(location))
    rows = compact(encoder.encode(e) for e in read_examples(read_rows(tiny_chat)))
    dataset = RowDataset(rows)
    batch = PaddedBatch(0)([dataset[i] for i in range(4)])
    assert can_select(model)
    ours = selective_loss(model, batch)
    assert float(ours.detach()) == pytest.approx(float(model(**batch).loss.detach()), rel=1e-6)


def test_packed_rows_do_not_see_each_other(tiny_model: Path, tiny_chat: Path) -> None:
    import torch

    from engine.data.formats import read_examples
    from engine.data.masks import Encoder
    from engine.data.rows import read_rows
    from engine.models import ModelLocation
    from recipes.finetune.batches import PackedBatch, PaddedBatch, RowDataset
    from recipes.finetune.loss import selective_loss
    from recipes.finetune.rows import compact, pack
    from recipes.loading import load_causal_lm, load_tokenizer

    location = ModelLocation("hf", tiny_model, None, "tiny")
    model = load_causal_lm(location, torch.float32)
    encoder = Encoder(load_tokenizer(location))
    rows = compact(encoder.encode(e) for e in read_examples(read_rows(tiny_chat)))[:12]
    packs = pack(rows, 256)
    assert sorted(i for p in packs for i in p) == list(range(12))
    assert len(packs) < 8
    assert all(sum(len(rows[i]) for i in p) <= 256 for p in packs)
    single = PaddedBatch(0)([RowDataset(rows)[i] for i in range(12)])
    dataset = RowDataset(rows, packs)
    packed = PackedBatch(0)([dataset[i] for i in range(len(packs))])
    with torch.no_grad():
        assert float(selective_loss(model, packed)) == pytest.approx(
            float(selective_loss(model, single)), rel=1e-5
        )


def test_a_packed_run_works(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    result = run_step(
        tmp_path / "home",
        "finetune",
        recipe(tiny_model, tiny_chat, train={"packing": True, "batch": 1, "samples": 0}),
    )
    first = next(e for e in events(tmp_path / "home", "metrics") if "loss" in e)
    assert result.outputs["loss"] < first["loss"]


def test_pretraining_takes_plain_text(tmp_path: Path, tiny_model: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("You may use the work. The terms are in the license.\n" * 60)
    result = run_step(
        tmp_path / "home",
        "finetune",
        recipe(tiny_model, text, train={"method": "pretrain", "batch": 2, "epochs": 3}),
    )
    first = next(e for e in events(tmp_path / "home", "metrics") if "loss" in e)
    assert result.outputs["loss"] < first["loss"] / 2


def endless_word(base: Path, folder: Path, word: str) -> Path:
    """The model with infinite numbers for what a word begins with; all else stays as it is."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    first = tiny_tokenizer()(word)["input_ids"][0]
    weights["model.embed_tokens.weight"][first] = float("inf")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_loss_that_is_no_number_stops_with_the_cause(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a run, by a row. What a high learning rate does depends on the CPU."""
    # every step is told, however quick
    monkeypatch.setattr(watching, "_MIN_EVENT_GAP", 0.0)
    talk = chat_rows(48)
    talk[30]["messages"][0]["content"] += " \u00e9"
    rows = write_jsonl(tmp_path / "rows.jsonl", talk)
    base = endless_word(tiny_model, tmp_path / "endless", "\u00e9")
    with pytest.raises(StepFailed, match="not a number at step") as caught:
        run_step(tmp_path / "home", "finetune", recipe(base, rows))
    told = [e["loss"] for e in events(tmp_path / "home", "metrics") if "loss" in e]
    assert len(told) > 5
    shown = ", ".join(f"{loss:.3g}" for loss in told[-5:])
    assert f"the losses before it: {shown}; a learning rate of 0.00" in caught.value.why
    assert "train.lr" in caught.value.hint


def test_every_row_too_long_is_told(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    with pytest.raises(BadInput, match="no row of chat") as caught:
        run_step(
            tmp_path / "home",
            "finetune",
            recipe(tiny_model, tiny_chat, data={"max_length": 16}),
        )
    assert "48 rows are longer than 16 tokens" in caught.value.why


def test_an_empty_split_is_told(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    with pytest.raises(BadInput, match="leaves an empty split") as caught:
        run_step(
            tmp_path / "home",
            "finetune",
            recipe(tiny_model, tiny_chat, data={"eval_fraction": 0.001}),
        )
    assert caught.value.why == "there are 48 rows"


def test_on_truncate_fail_names_the_rows(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    with pytest.raises(BadInput, match="48 rows are longer than 20") as caught:
        run_step(
            tmp_path / "home",
            "finetune",
            recipe(tiny_model, tiny_chat, data={"max_length": 20, "on_truncate": "fail"}),
        )
    assert "rows 1, 2, 3" in caught.value.why


def test_the_best_weights_are_kept(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", chat_rows(6, 200))
    result = run_step(
        tmp_path / "home",
        "finetune",
        recipe(
            tiny_model,
            tiny_chat,
            data={"eval": str(held)},
            train={"keep": "best", "eval_every": 6, "epochs": 6, "lr": 2e-2, "samples": 0},
        ),
    )
    seen = [e["eval_loss"] for e in events(tmp_path / "home", "metrics") if "eval_loss" in e]
    assert len(seen) > 4
    assert result.outputs["eval_loss"] == min(seen)
    location = resolve_model(str(result.outputs["model"]), StatePaths(tmp_path / "home"))
    training = json.loads((location.path / "training.json").read_text())
    assert min(v for _, v in training["eval_losses"]) == min(seen)


def test_a_dataset_version_is_a_parent(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    from engine.api import Workbench

    home = tmp_path / "home"
    Workbench(home).data.import_file(tiny_chat, "talk")
    params = recipe(tiny_model, tiny_chat, train={"method": "lora", "epochs": 1, "samples": 0})
    params["data"]["train"] = "talk@latest"
    result = run_step(home, "finetune", params)
    registry = Registry.open(StatePaths(home))
    view = registry.resolve(str(result.outputs["model"]))
    parents = {rel: registry.resolve(manifest).artifact_type for rel, manifest in view.parents}
    assert parents == {"base": "base", "dataset": "dataset"}
    assert "talk@v" in str(view.run["data"])
