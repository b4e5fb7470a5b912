"""A workbench over a seeded store, driven without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from screens.app import WorkbenchApp
from screens.dialogs import TextDialog
from screens.settings import UiSettings
from screens.widgets.text_pane import TextPane
from tests.screens.seeded import NOW, Seed, seed_all


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    return seed_all(tmp_path / "state")


def reads(app: WorkbenchApp) -> bool:
    """A dialog with a text is shown, and its pane (made a moment later) is there."""
    return isinstance(app.screen, TextDialog) and bool(app.screen.query(TextPane))


def make_app(seed: Seed, **options: object) -> WorkbenchApp:
    """An app over the seed with a clock that stands still and no engine."""
    settings = options.pop("settings", UiSettings(theme="workbench-dark"))
    assert isinstance(settings, UiSettings)
    return WorkbenchApp(
        seed.workbench,
        settings=settings,
        start_engine=False,
        clock=lambda: NOW,
        ascii_only=bool(options.get("ascii_only")),
    )


async def until(pilot: Pilot[None], true: Callable[[], bool], what: str = "") -> None:
    """Wait until something holds; the state of a screen comes from threads."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if true():
            return
        await pilot.pause(0.02)
    raise AssertionError(f"it never came true: {what}")


async def ready(pilot: Pilot[None]) -> None:
    """The list of jobs is there."""
    app = pilot.app
    assert isinstance(app, WorkbenchApp)
    await until(pilot, lambda: bool(app.screen.query("#list")), "a list")
    await until(pilot, lambda: len(getattr(app.screen, "table").rows) == 7, "seven jobs")  # noqa: B009
    await asyncio.sleep(0)
