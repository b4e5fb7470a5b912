"""A workbench over a seeded store, driven without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.message_pump import MessagePump
from textual.pilot import Pilot

from screens.app import WorkbenchApp
from screens.dialogs import TextDialog
from screens.settings import UiSettings
from screens.typeahead import TypeAhead
from screens.widgets.text_pane import TextPane
from tests.screens.seeded import NOW, Seed, seed_all


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    return seed_all(tmp_path / "state")


async def settled(app: App[Any]) -> None:
    """Until every key was dealt with and no widget has anything left to do.

    A pilot's keys and pauses go by the clocks: a process that gets no CPU looks idle to them. What
    is read in threads is not waited for.
    """
    end = time.monotonic() + 10  # a widget may rightly wait for something, its queue behind it
    looks, quiet = 0, 0
    while quiet < 3 and app.is_running and not app._exit and time.monotonic() < end:
        await asyncio.sleep(0 if looks < 50 else 0.002)
        looks, quiet = looks + 1, 0 if _at_work(app) else quiet + 1


def _at_work(app: App[Any]) -> bool:
    if isinstance(app, TypeAhead) and (app._dealing or app._typed):
        return True
    pumps: list[MessagePump] = [app, *app._registry]
    return any(pump.message_queue_size or pump._next_callbacks for pump in pumps)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pilots whose keys and pauses end when the app has done what they ask for."""
    for name in ("press", "pause"):
        plain = getattr(Pilot, name)

        async def waits(pilot: Pilot[Any], *words: Any, _plain: Any = plain) -> None:
            await _plain(pilot, *words)
            await settled(pilot.app)

        monkeypatch.setattr(Pilot, name, waits)


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
            # a dialog that is shown may not have its widgets yet
            await settled(pilot.app)
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
