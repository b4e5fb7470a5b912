"""A folder with real data beside the recipe, and a private state directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import RecipeInvalid
from engine.paths import StatePaths
from engine.recipe import prepare
from engine.recipe.plan import Plan
from engine.types.recipes import Diagnostic


class Bench:
    """Prepares recipe texts as files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = StatePaths(folder / "state").ensure()

    def prepare(self, text: str, *sets: str) -> Plan:
        path = self.folder / "r.toml"
        path.write_text(text, encoding="utf-8")
        return prepare(path, sets, self.paths)

    def mistakes(self, text: str, *sets: str) -> list[Diagnostic]:
        with pytest.raises(RecipeInvalid) as caught:
            self.prepare(text, *sets)
        found = [d for d in caught.value.diagnostics if isinstance(d, Diagnostic)]
        assert found == sorted(found, key=lambda d: (d.path == "--set", d.path, d.line, d.column))
        return found

    def mistake(self, text: str, *sets: str) -> Diagnostic:
        found = self.mistakes(text, *sets)
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roomy_disk: None) -> Bench:
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "y"}]}
        for i in range(6)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    (tmp_path / "held.jsonl").write_text(text.replace("?", "!"))
    (tmp_path / "plain.txt").write_text("The rain stays in the hills.\n\nThe road is wet.\n")
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)
