"""The Data screen: rows as they are, nothing cut; older versions by number, tag and date."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input

from screens.data.lines import raw, row_lines, version_table
from screens.dialogs import LineDialog
from screens.text import Line
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed

LONG = " ".join(f"word{n}" for n in range(200))


def text(lines: list[Line]) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines)


def page(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    about = {"ref": "t@v1", "offset": 0, "total": len(rows)}
    return {"columns": list(rows[0]), "rows": rows, **about, **more}


def test_small_rows_stand_side_by_side_with_whole_values() -> None:
    rows = [{"id": 1234567, "ratio": 0.123456789012, "ok": True, "tags": ["a"], "none": None}]
    shown = text(row_lines(page(rows), 100))
    assert "1234567" in shown
    assert "0.123456789012" in shown
    assert "true" in shown
    assert '["a"]' in shown
    assert "null" in shown


@pytest.mark.parametrize("width", [30, 80, 200])
def test_long_and_nested_values_are_never_cut(width: int) -> None:
    nested = {"a": [1, {"b": LONG}], "ok": False}
    talk = [{"role": "user", "content": "Why?\nWell?"}, {"role": "assistant", "content": LONG}]
    code = "def f():\n    return  1"
    rows = [{"text": LONG, "nested": nested, "messages": talk, "code": code}]
    lines = row_lines(page(rows), width)
    shown = text(lines)
    assert "…" not in shown
    squeezed = "".join(shown.split())
    assert squeezed.count("".join(LONG.split())) == 3
    assert "".join(json.dumps(nested).split()) in squeezed
    assert "    user" in shown
    assert "        return  1" in shown, "spaces of code stay"
    assert max(sum(len(part) for part, _ in line) for line in lines) <= width


def test_pages_tell_where_they_are() -> None:
    rows = [{"id": n} for n in range(50)]
    assert "rows 51 to 100 of 1,000" in text(row_lines(page(rows, offset=50, total=1000), 80))
    beyond = {**page([{"id": 1}]), "rows": [], "offset": 100}
    assert "no row from 101 on; there are 1" in text(row_lines(beyond, 80))


def test_versions_tell_time_with_zone_and_message() -> None:
    told = {
        "version": 2, "time": 1_790_000_000.0, "operation": "append", "rows": 3, "size_bytes": 10,
        "tags": ("golden",), "manifest": "sha256:0", "source": "/x/a.jsonl", "message": "more",
    }  # fmt: skip
    shown = text(version_table([told], 120))
    moment = datetime.fromtimestamp(1_790_000_000).astimezone()
    assert moment.strftime("%Y-%m-%d %H:%M:%S %Z") in shown
    assert "v2: more" in shown
    assert raw({"a": None}) == '{"a": null}'


async def test_an_older_version_and_the_next_page(tmp_path: Path) -> None:
    seed = Seed(tmp_path / "state")
    source = tmp_path / "tickets.jsonl"
    for count in (120, 3):
        source.write_text("".join(json.dumps({"id": f"{count}-{n}"}) + "\n" for n in range(count)))
        seed.workbench.data.import_file(source, "tickets", publish=False)
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "datasets")
        screen: Any = app.screen

        def rows() -> str:
            found = screen.query("#rows")
            return cast(TextPane, found.first()).text if found else ""

        screen.deck.show("rows")
        await until(pilot, lambda: "3-2" in rows(), "the newest version")
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "which version")
        app.screen.query_one(Input).value = "v1"
        await pilot.press("enter")
        await until(pilot, lambda: "rows 1 to 50 of 120" in rows(), "the older one")
        assert "tickets@v1" in rows()
        await pilot.press("greater_than_sign")
        await until(pilot, lambda: "120-50" in rows(), "its next page")
        assert screen.command_twin().endswith("data show tickets@v1 --rows 50 --offset 50")
        await pilot.press("less_than_sign")
        await until(pilot, lambda: "rows 1 to 50 of 120" in rows(), "back")
