"""The bundled mixed text: a mixture from its beginning, apart from what quality is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import assets
from engine.data.rows import read_rows
from engine.data.source import resolve_data
from engine.paths import StatePaths

DATA = Path(assets.__file__).parent / "data"


def texts(tmp_path: Path) -> list[str]:
    location = resolve_data("mixed", StatePaths(tmp_path))
    assert location.name == "mixed"
    return [str(row.values["text"]) for row in read_rows(location.path, location.version)]


def test_every_part_of_it_is_mixed(tmp_path: Path) -> None:
    found = texts(tmp_path)
    assert sum(map(len, found)) > 90_000, "more than the default of 8,192 tokens, several times"
    quarter = -(-len(found) // 4)
    for start in range(0, len(found), quarter):
        part = found[start : start + quarter]
        together = "\n".join(part)
        assert "    return " in together, "code"
        assert "User: " in together, "conversation"
        assert sum(ord(letter) > 0x2FF for letter in together) > 200, "other scripts"
        assert sum(text.count("the ") for text in part) > 50, "English prose"


def test_nothing_in_it_is_measured_later(tmp_path: Path) -> None:
    together = "\n".join(texts(tmp_path))
    heldout = [
        message["content"]
        for line in (DATA / "house" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
        for message in json.loads(line)["messages"]
    ]
    neutral = (DATA / "neutral.txt").read_text(encoding="utf-8").split("\n\n")
    assert heldout
    assert neutral
    for text in (*heldout, *neutral):
        assert text.strip() not in together
        for line in text.splitlines():
            # answers in the house style share short beginnings by design
            assert len(line) < 60 or line not in together, line
