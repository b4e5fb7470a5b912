"""Pictures of the screens at two sizes over a seeded store and a clock that stands still.

``pytest tests/snapshots --snapshot-update`` takes them again; look at them before you commit them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from screens.app import WorkbenchApp
from screens.settings import UiSettings
from tests.screens.conftest import make_app, ready, until
from tests.screens.seeded import Seed, seed_all

SMALL, LARGE = (80, 24), (120, 36)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    return seed_all(tmp_path / "state")


def at(seed: Seed, name: str, *keys: str) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Choose a job, press keys, wait until nothing is read any more."""

    async def before(pilot: Pilot[None]) -> None:
        await ready(pilot)
        app: Any = pilot.app
        screen = app.screen
        screen.table.go_to(seed.ids[name])
        await until(pilot, lambda: bool(screen.detail.steps), "steps")
        await until(pilot, lambda: app.engine is not None, "the engine's state")
        if name == "house-style":
            await until(pilot, lambda: len(screen.detail.series.loss) == 120, "events")
        for key in keys:
            await pilot.press(key)
        await pilot.pause(0.4)

    return before


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x36"])
@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("house-style", ()),
        ("house-style", ("tab",)),
        ("tickets-qlora", ()),
    ],
    ids=["running", "chart", "failed"],
)
def test_jobs(
    snap_compare: Any, seed: Seed, size: tuple[int, int], job: str, keys: tuple[str, ...]
) -> None:
    assert snap_compare(make_app(seed), terminal_size=size, run_before=at(seed, job, *keys))


@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("house-style", ("tab", "tab")),
        ("evaluate-base", ("tab", "tab", "tab", "tab", "tab")),
        ("support-bot", ("x",)),
    ],
    ids=["log", "report", "confirm"],
)
def test_jobs_small(snap_compare: Any, seed: Seed, job: str, keys: tuple[str, ...]) -> None:
    assert snap_compare(make_app(seed), terminal_size=SMALL, run_before=at(seed, job, *keys))


@pytest.mark.parametrize("theme", ["high-contrast", "workbench-light", "ansi-dark"])
def test_themes(snap_compare: Any, seed: Seed, theme: str) -> None:
    app = make_app(seed, settings=UiSettings(theme=theme))
    assert snap_compare(app, terminal_size=SMALL, run_before=at(seed, "house-style"))


def test_ascii(snap_compare: Any, seed: Seed) -> None:
    app = make_app(seed, ascii_only=True)
    assert snap_compare(app, terminal_size=SMALL, run_before=at(seed, "house-style", "tab"))


def test_too_small(snap_compare: Any, seed: Seed) -> None:
    assert snap_compare(make_app(seed), terminal_size=(50, 12))


def test_first_start(snap_compare: Any, tmp_path: Path) -> None:
    app: WorkbenchApp = make_app(Seed(tmp_path / "state"))

    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.has_class("empty"), "empty")
        await until(pilot, lambda: app.engine is not None, "the engine's state")
        await pilot.pause(0.2)

    assert snap_compare(app, terminal_size=SMALL, run_before=before)
