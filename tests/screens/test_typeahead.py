"""A key that comes while the one before it is still at work goes where that one leads."""

from __future__ import annotations

import asyncio

import pytest
from textual import events
from textual.widgets import Input

from tests.screens.conftest import make_app, ready, settled, until
from tests.screens.seeded import Seed


@pytest.mark.parametrize("opens", ["slash", "colon"])
async def test_however_soon_the_next_key_comes(seed: Seed, opens: str) -> None:
    """A filter is opened, or a dialog; x alone would ask whether to cancel the job."""
    app = make_app(seed)
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        for turns in range(25):
            app.post_message(events.Key(opens, "/" if opens == "slash" else ":"))
            for _ in range(turns):
                await asyncio.sleep(0)
            app.post_message(events.Key("x", "x"))
            await until(pilot, lambda: isinstance(app.focused, Input), "a field")
            await settled(app)
            assert isinstance(app.focused, Input)
            assert app.focused.value == "x", f"{turns} turns of the loop later"
            await pilot.press("escape")
