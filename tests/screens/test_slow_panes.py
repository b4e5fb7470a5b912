"""Details that take seconds to read: one thread at a time, and the newest wish wins."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from screens.app import WorkbenchApp
from screens.data.screen import DataScreen
from screens.text import Line
from screens.widgets.text_pane import Build
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed


async def test_a_slow_pane_takes_one_thread(seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    lock = threading.Lock()
    asked: list[str] = []
    running, most = 0, 0

    def lines(self: DataScreen, pane: str, item: Any) -> Build:
        nonlocal running, most
        if pane != "report":
            return lambda width: []
        with lock:
            running += 1
            most = max(most, running)
            asked.append(str(item))
        gate.wait(60)
        with lock:
            running -= 1
        told: list[Line] = [[(f"report of {item}", "")]]
        return lambda width: told

    monkeypatch.setattr(DataScreen, "pane_lines", lines)
    app: WorkbenchApp = make_app(seed)
    async with app.run_test() as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, DataScreen), "the Data screen")
        screen = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: len(screen.table.rows) >= 2, "the bundled datasets")
        await pilot.press("c")
        await until(pilot, lambda: len(asked) == 1, "the first report")
        for _ in range(3):
            await pilot.press("j", "k", "j")
        last = str(screen.item)
        await pilot.pause(0.3)
        assert len(asked) == 1, "a second thread began while the first one read"
        gate.set()
        report = partial(screen.deck.pane, "report")
        await until(pilot, lambda: last in getattr(report(), "text", ""), "the newest report")
        assert most == 1
        assert asked[-1] == last


def test_datasets_are_read_in_another_process(tmp_path: Path) -> None:
    """Delta Lake, Arrow and DuckDB would stay in the screens' memory: 200 MB."""
    seed = Seed(tmp_path / "state")
    source = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"question {n}", "score": n}) for n in range(60)]
    source.write_text("\n".join(lines))
    code = f"""
import asyncio, sys
from pathlib import Path
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed

async def main():
    app = make_app(Seed(Path({str(tmp_path / "state")!r})))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        names = lambda: [row.key for row in getattr(app.screen, "rows", ())]
        await until(pilot, lambda: "mine" in names(), "one's own dataset")
        text = lambda pane: getattr(app.screen.deck.pane(pane), "text", "")
        for pane, word in (("overview", "overwrite"), ("rows", "question 7"), ("columns", "59")):
            await until(pilot, lambda: word in text(pane), pane)
            if pane != "columns":  # the next one would begin a report, and the end wait for it
                await pilot.press("tab")

asyncio.run(main())
print(sorted({{"duckdb", "pyarrow", "deltalake", "pandas", "numpy"}} & set(sys.modules)))
"""
    seed.workbench.data.import_file(source, "mine")
    seed.close()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-3000:]
