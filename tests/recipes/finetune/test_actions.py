"""What the Data screen asks of the service process: report, mask and rows as understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from engine.paths import StatePaths
from recipes.finetune import KIND
from recipes.finetune.actions import data_report, mask, preview
from tests.support.tiny_model import chat_rows, write_jsonl


def test_the_kind_offers_them() -> None:
    assert set(KIND.actions) == {"data_report", "mask", "preview"}


def test_report(tmp_path: Path, tiny_model: Path, tiny_chat: Path) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", [*chat_rows(2), *chat_rows(2, 500)])
    told: list[dict[str, Any]] = []
    params = {"data": str(tiny_chat), "base": str(tiny_model), "eval": str(held)}
    found = data_report(params, told.append, StatePaths(tmp_path / "home"))
    assert found["report"]["rows"] == 48
    assert found["report"]["overlap"] == {"count": 2, "rows": [1, 2]}
    assert found["table"]["title"] == "Data report: chat.jsonl"
    assert any("repeat training rows" in text for text in found["warnings"])


def test_report_of_preferences(tmp_path: Path, tiny_model: Path) -> None:
    params = {"data": "house/preferences", "base": str(tiny_model)}
    found = data_report(params, lambda _: None, StatePaths(tmp_path / "home"))
    assert found["report"]["rows"] == found["report"]["used"] == 200
    assert found["report"]["refused"]["count"] == 0


def test_report_of_prompts(tmp_path: Path, tiny_model: Path) -> None:
    params = {"data": "house/prompts", "base": str(tiny_model)}
    found = data_report(params, lambda _: None, StatePaths(tmp_path / "home"))
    assert found["report"]["rows"] == found["report"]["used"] == 100
    assert found["report"]["tokens"] > 1000
    assert found["warnings"] == []


def test_mask_tokens_join_to_the_text(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_jsonl(
        tmp_path / "r.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": "Hé?"},
                    {"role": "assistant", "content": "日本 🙂."},
                ]
            }
        ],
    )
    found = mask(
        {"data": str(rows), "base": str(tiny_model), "count": 1},
        lambda _: None,
        StatePaths(tmp_path / "home"),
    )
    (row,) = found["rows"]
    text = "".join(piece for piece, _ in row["tokens"])
    assert "user\nHé?<|im_end|>" in text
    assert "".join(piece for piece, learned in row["tokens"] if learned) == "日本 🙂.<|im_end|>"
    assert row["ends"]
    assert not row["cut"]


def test_preview_shows_rows_as_understood(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "output": "a"}])
    found = preview({"data": str(rows)}, lambda _: None, StatePaths(tmp_path / "home"))
    assert found["format"] == "alpaca"
    assert found["rows"][0]["values"] == {"instruction": "q", "output": "a"}
    assert [m["role"] for m in found["rows"][0]["example"]["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    "params", [{"max_length": "long"}, {"format": "jsonl"}, {"on_truncate": "never"}]
)
def test_bad_parameters(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, params: dict[str, Any]
) -> None:
    with pytest.raises(BadInput):
        data_report(
            {"data": str(tiny_chat), "base": str(tiny_model), **params},
            lambda _: None,
            StatePaths(tmp_path / "home"),
        )
