"""Two runs compared on the Jobs screen and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from engine.types.compared import JobsCompared
from screens.dialogs import TextDialog
from screens.jobs.comparing import comparison_lines
from screens.widgets.text_pane import TextPane
from tests.faults.harness import PATIENCE
from tests.screens.conftest import make_app, ready, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen


async def test_two_selected_runs_are_compared(seed: Seed) -> None:
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await ready(pilot)
        screen: Any = app.screen
        await pilot.press("c")
        await until(pilot, lambda: any("select two runs" in told for told in heard), "told")
        keys = [row.key for row in screen.table.rows]
        older, newer = seed.ids["house-style"], seed.ids["night-run"]
        if keys.index(older) < keys.index(newer):
            older, newer = newer, older
        for key in (older, newer):
            screen.table.go_to(key)
            await pilot.press("space")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "side by side")
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "first" in pane.text, "drawn")
        assert older in pane.text.splitlines()[0]
        assert newer in pane.text.splitlines()[1]


def test_the_curves_share_a_chart_and_the_command_tells_the_same(seed: Seed) -> None:
    left, right = seed.ids["house-style"], seed.ids["night-run"]
    found: JobsCompared = seed.workbench.jobs.compare(left, right)
    for ascii_only in (False, True):
        lines = comparison_lines(found, 70, ascii_only=ascii_only)
        text = "\n".join("".join(part for part, _ in line) for line in lines)
        assert "loss" in text
        assert left in text
    done = subprocess.run(
        [sys.executable, "-m", "modelops_tui", "jobs", "compare", left, right, "--json"],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
        env={"PATH": "/usr/bin:/bin", "MODELOPS_HOME": str(seed.paths.root)},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["left"]["id"] == left
    assert [row[0] for row in told["settings"]] == [row[0] for row in found.settings]
