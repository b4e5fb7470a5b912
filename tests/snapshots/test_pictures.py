"""Pictures of the screens at two sizes over a seeded store and a clock that stands still.

``pytest tests/snapshots --snapshot-update`` takes them again; look at them before you commit them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_textual_snapshot import normalize_svg
from textual.pilot import Pilot

from screens.app import WorkbenchApp
from screens.settings import UiSettings
from tests.screens.conftest import make_app, ready, unhurried, until
from tests.screens.seeded import Seed, seed_all

__all__ = ["unhurried"]

SMALL, LARGE = (80, 24), (120, 36)
KEPT = Path(__file__).parent / "__snapshots__" / "test_pictures"
Before = Callable[[Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    return seed_all(tmp_path / "state")


@pytest.fixture
def same(snap_compare: Any, request: pytest.FixtureRequest) -> Callable[..., bool]:
    """Compare a picture once it is the kept one, or has had long enough to become it.

    What is drawn is read in threads: on a busy machine it comes late.
    """
    file = KEPT / f"{request.node.name}.svg"
    taken_again = request.config.getoption("update_snapshots") or not file.exists()
    wanted = "" if taken_again else normalize_svg(file.read_text())

    async def no_more(_: Pilot[None]) -> None:
        return

    def compare(app: WorkbenchApp, size: tuple[int, int], before: Before = no_more) -> bool:
        def shown() -> bool:
            picture = app.export_screenshot(title=app.title, simplify=True)
            return bool(normalize_svg(picture) == wanted)

        async def wait(pilot: Pilot[None]) -> None:
            await before(pilot)
            await pilot.pause(0.4)
            end = time.monotonic() + 60
            while not (taken_again or shown()) and time.monotonic() < end:
                await pilot.pause(0.05)

        return bool(snap_compare(app, terminal_size=size, run_before=wait))

    return compare


def at(seed: Seed, name: str, *keys: str) -> Before:
    """Choose a job and press keys."""

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
    same: Callable[..., bool], seed: Seed, size: tuple[int, int], job: str, keys: tuple[str, ...]
) -> None:
    assert same(make_app(seed), size, at(seed, job, *keys))


@pytest.mark.parametrize(
    ("job", "keys"),
    [
        ("house-style", ("tab", "tab")),
        ("evaluate-base", ("tab", "tab", "tab", "tab", "tab")),
        ("support-bot", ("x",)),
    ],
    ids=["log", "report", "confirm"],
)
def test_jobs_small(same: Callable[..., bool], seed: Seed, job: str, keys: tuple[str, ...]) -> None:
    assert same(make_app(seed), SMALL, at(seed, job, *keys))


@pytest.mark.parametrize("theme", ["high-contrast", "workbench-light", "ansi-dark"])
def test_themes(same: Callable[..., bool], seed: Seed, theme: str) -> None:
    app = make_app(seed, settings=UiSettings(theme=theme))
    assert same(app, SMALL, at(seed, "house-style"))


def test_ascii(same: Callable[..., bool], seed: Seed) -> None:
    app = make_app(seed, ascii_only=True)
    assert same(app, SMALL, at(seed, "house-style", "tab"))


def test_too_small(same: Callable[..., bool], seed: Seed) -> None:
    assert same(make_app(seed), (50, 12))


def test_first_start(same: Callable[..., bool], tmp_path: Path) -> None:
    app: WorkbenchApp = make_app(Seed(tmp_path / "state"))

    async def before(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.has_class("empty"), "empty")
        await until(pilot, lambda: app.engine is not None, "the engine's state")

    assert same(app, SMALL, before)
