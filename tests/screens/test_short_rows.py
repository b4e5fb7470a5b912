"""Rows that have no cell in the last columns can be sorted by them all the same."""

from __future__ import annotations

from screens.app import WorkbenchApp
from screens.data.screen import DataScreen
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed


async def test_every_column_sorts(seed: Seed) -> None:
    app: WorkbenchApp = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, DataScreen), "the Data screen")
        screen = app.screen
        assert isinstance(screen, DataScreen)
        await until(pilot, lambda: len(screen.table.rows) >= 2, "the bundled datasets")
        names = {row.key for row in screen.table.rows}
        columns = []
        for _ in screen.COLUMNS:
            screen.table.action_sort()
            screen.table.action_sort_reverse()
            columns.append(screen.table.sorted_by)
            assert {row.key for row in screen.table.rows} == names
        assert len(set(columns)) == len(columns)
