"""The ten journeys of a new user (docs/journeys.md), each key by key."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from engine.types.jobs import JobState
from screens.app import WorkbenchApp
from screens.dialogs import ChoiceDialog, ConfirmDialog, TextDialog
from screens.recipes.form import FormScreen
from screens.settings import UiSettings
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, ready, until
from tests.screens.seeded import Seed
from tests.screens.test_other_screens import BROKEN, text_of

SIZES = {"small": (80, 24), "wide": (120, 36)}
#: Every journey again, at each size and in 16 colours.
ELSEWHERE = [
    pytest.param((size, theme), id=f"{size[0]}x{size[1]}-{theme}", marks=pytest.mark.nightly)
    for size in ((80, 24), (120, 36), (200, 50))
    for theme in ("workbench-dark", "ansi-dark")
]


@pytest.fixture(autouse=True, params=[None, *ELSEWHERE])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As each journey is written, or at one size and in one theme."""
    if request.param is None:
        return
    size, theme = request.param
    for name in SIZES:
        monkeypatch.setitem(SIZES, name, size)

    plain = make_app

    def themed(seed: Seed) -> WorkbenchApp:
        return plain(seed, settings=UiSettings(theme=theme))

    monkeypatch.setattr(sys.modules[__name__], "make_app", themed)


@pytest.fixture
def empty(tmp_path: Path) -> Seed:
    return Seed(tmp_path / "state")


def dialog_text(app: Any) -> str:
    panes = app.screen.query(TextPane)
    return cast(TextPane, panes.first()).text if panes else ""


async def test_first_start_with_nothing(empty: Seed) -> None:
    """r: the library as a list, quickstart among it."""
    app = make_app(empty)
    async with app.run_test(size=SIZES["small"]) as pilot:
        await until(pilot, lambda: app.screen.has_class("empty"), "nothing is there yet")
        await until(pilot, lambda: "Press r" in text_of(app, "empty"), "it says what to do")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the library")
        await pilot.press(*"quicks")
        table: Any = app.screen.query_one("#choices")
        await until(pilot, lambda: len(table.rows) == 1, "narrowed")
        assert table.current.item.name == "quickstart"
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.has_class("empty"), "back, nothing was started")
    assert not empty.workbench.jobs.list().jobs


async def test_start_a_recipe_from_the_library(
    empty: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2, the recipe, c (does it fit?), r; the job is on the Jobs screen."""
    app = make_app(empty)
    # what the engine does with a job has tests of its own; here it stays queued
    monkeypatch.setattr(app.workbench.system, "ensure_engine", lambda: None)
    async with app.run_test(size=SIZES["small"]) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        await pilot.press("slash", *"quickstart", "enter")
        screen: Any = app.screen
        await until(pilot, lambda: len(screen.table.rows) == 1, "filtered")
        await pilot.press("c")
        await until(pilot, lambda: "this recipe can run" in text_of(app, "check"), "it fits")
        await pilot.press("r")
        jobs = empty.workbench.jobs
        await until(pilot, lambda: bool(jobs.list().jobs), "submitted")
        await pilot.press("1")
        await until(pilot, lambda: len(getattr(app.screen, "jobs", ())) == 1, "and listed")
    (job,) = jobs.list().jobs
    assert (job.name, job.state) == ("quickstart", JobState.QUEUED)


async def test_fix_a_recipe_with_three_mistakes(empty: Seed) -> None:
    """i, then n to each mistake: u takes the wrong key out, enter writes the others anew."""
    empty.workbench.recipes.save("three-mistakes", BROKEN)
    app = make_app(empty)
    async with app.run_test(size=SIZES["small"]) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        await pilot.press("slash", *"three-mistakes", "enter")
        screen: Any = app.screen
        await until(pilot, lambda: len(screen.table.rows) == 1, "filtered")
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
        form = cast(FormScreen, app.screen)
        fixes = {"train.metod": None, "train.epochs": "2", "train.lr": "2e-4"}
        for left in (3, 2, 1):
            await until(
                pilot,
                lambda: (
                    form.verdict is not None
                    and form.verdict.text == form.document.text
                    and len(form.verdict.diagnostics) == left  # noqa: B023
                ),
                f"{left} mistakes are named",
            )
            await pilot.press("n")
            assert form.table.current is not None
            value = fixes.pop(form.table.current.key)
            if value is None:
                await pilot.press("u")
            else:
                await pilot.press("enter", "ctrl+u", *value, "enter")
        await until(pilot, lambda: bool(form.verdict and form.verdict.extra), "it can run")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not isinstance(app.screen, FormScreen), "saved")
    text = empty.workbench.recipes.read("three-mistakes")
    assert "# the packaged one" in text
    assert "metod" not in text


async def watch_and_leave(seed: Seed) -> str:
    """The curve that was shown."""
    app = make_app(seed)
    async with app.run_test(size=SIZES["wide"]) as pilot:
        await ready(pilot)
        screen: Any = app.screen
        screen.table.go_to(seed.ids["house-style"])
        await until(pilot, lambda: "0.8123" in text_of(app, "overview"), "how far it is")
        await pilot.press("tab")
        await until(pilot, lambda: "held out" in text_of(app, "chart"), "its curve")
        curve = text_of(app, "chart")
        await pilot.press("tab")
        await until(pilot, lambda: bool(app.screen.query("#log")), "its log")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app.return_code is not None, "left")
    assert app.return_code == 0
    job = seed.workbench.jobs.get(seed.ids["house-style"])
    assert job.state is JobState.RUNNING
    assert job.want is None
    return curve


async def test_watch_a_run_leave_and_come_back(seed: Seed) -> None:
    """Chart, log, ctrl+q; the next start shows the same at once: nothing lived in the screens."""
    assert await watch_and_leave(seed) == await watch_and_leave(seed)


async def test_why_a_job_waits_and_why_one_failed(seed: Seed) -> None:
    """Filter by name; the overview says it. r runs the failed one again."""
    app = make_app(seed)
    async with app.run_test(size=SIZES["small"]) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"support", "enter")
        await until(pilot, lambda: "waits for the CPU" in text_of(app, "overview"), "why it waits")
        assert "has it" in text_of(app, "overview")
        await pilot.press("escape", "slash", *"tickets", "enter")
        await until(pilot, lambda: "became NaN" in text_of(app, "overview"), "why it failed")
        assert "hint: try --set train.lr=2e-4" in text_of(app, "overview")
        await pilot.press("r")
        failed = seed.ids["tickets-qlora"]
        jobs = seed.workbench.jobs
        await until(pilot, lambda: jobs.get(failed).state is JobState.QUEUED, "queued again")


async def test_compare_two_models_and_promote_one(empty: Seed, tmp_path: Path) -> None:
    """space, space, c: figures side by side. p, the stage: a gate that isn't met says what."""
    for name, figure in (("first-bot", 14.0), ("second-bot", 9.5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights.bin").write_bytes(name.encode() * 100)
        empty.workbench.artifacts.registry.publish(
            name=name,
            artifact_type="model",
            files=folder,
            license="Apache-2.0",
            metrics={"perplexity": figure},
        )
    app = make_app(empty)
    async with app.run_test(size=SIZES["wide"]) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: len(getattr(app.screen, "rows", ())) == 2, "two models")
        screen: Any = app.screen
        await pilot.press("space", "space", "c")
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "side by side")
        await until(pilot, lambda: "perplexity" in dialog_text(app), "their figures")
        assert "4.5" in dialog_text(app)
        await pilot.press("escape", "g", "p")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the stages")
        await pilot.press(*"prod", "enter")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "prod has gates")
        told = cast(ConfirmDialog, app.screen).consequence
        assert "✓ no pickles" in told
        assert "○ 0 of 1 release key(s) agree" in told, "what it takes is said before"
        await pilot.press("escape", "p")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the stages again")
        await pilot.press(*"dev", "enter")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks")
        await pilot.press("y")
        artifacts = empty.workbench.artifacts
        await until(pilot, lambda: bool(artifacts.list(stage="dev")), "promoted")
        await until(pilot, lambda: any("dev" in r.cells[3][0] for r in screen.rows), "and shown")
    assert not artifacts.list(stage="prod")


async def test_free_disk_space(empty: Seed, tmp_path: Path) -> None:
    """8, f: what nothing refers to, how much that is, y."""
    folder = tmp_path / "bot"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"kept" * 100)
    empty.workbench.artifacts.add(folder, name="bot", artifact_type="model")
    orphan = empty.paths.registry / "blobs" / "sha256" / ("ab" * 32)
    orphan.write_bytes(b"x" * 2_000_000)
    old = time.time() - 3 * 86400
    os.utime(orphan, (old, old))
    app = make_app(empty)
    async with app.run_test(size=SIZES["small"]) as pilot:
        await pilot.press("8")
        await until(pilot, lambda: "no engine runs" in text_of(app, "machine"), "the machine")
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks")
        assert "2.0 MB in 1 blob" in cast(ConfirmDialog, app.screen).question
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, ConfirmDialog), "no")
        assert orphan.exists()
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "it asks again")
        await pilot.press("y")
        await until(pilot, lambda: not orphan.exists(), "freed")
    assert empty.workbench.artifacts.verify("bot", True).ok
