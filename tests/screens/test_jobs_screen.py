"""The Jobs screen over a real store: what it shows, asks and does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input, Static

from engine.types.jobs import JobState
from screens.bridge import PAGE
from screens.dialogs import ChoiceDialog, CommandDialog, ConfirmDialog
from screens.help import HelpDialog
from screens.jobs import details
from screens.jobs.screen import JobsScreen
from screens.recipes.form import FormScreen
from screens.widgets.key_hints import KeyHints
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, reads, ready, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen


def jobs_screen(app: Any) -> JobsScreen:
    return cast(JobsScreen, app.screen_stack[0])


def text_of(app: Any, pane: str = "overview") -> str:
    return str(app.screen_stack[0].query_one(f"#{pane}", TextPane).text)


async def choose(pilot: Any, seed: Seed, name: str) -> JobsScreen:
    await ready(pilot)
    screen = jobs_screen(pilot.app)
    assert screen.table.go_to(seed.ids[name])
    await until(pilot, lambda: screen.detail.job is not None and screen.detail.job.name == name)
    await until(pilot, lambda: bool(screen.detail.steps), "steps")
    return screen


async def test_every_state_with_its_reason(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot)
        rows = {row.item.name: row for row in jobs_screen(app).table.rows}
        assert {row.item.state for row in rows.values()} == set(JobState) - {JobState.STOPPING}
        cells = " ".join(text for text, _ in rows["support-bot"].cells)
        assert "waits for the CPU" in cells
        assert "NaN" in " ".join(text for text, _ in rows["tickets-qlora"].cells)


async def test_details_follow_the_cursor(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await choose(pilot, seed, "house-style")
        await until(pilot, lambda: len(screen.detail.series.loss) == 120, "the curve")
        await until(pilot, lambda: "publish" in text_of(app), "steps")
        assert "6m 55s" in text_of(app)
        await pilot.press("tab")
        await until(pilot, lambda: screen.deck.current == "chart")
        await until(pilot, lambda: "120 points" in text_of(app, "chart"), "the chart")
        await pilot.press("down", "down", "down")
        await until(pilot, lambda: "no loss" in text_of(app, "chart"), "another job's chart")


async def test_why_it_failed_and_what_to_do(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await choose(pilot, seed, "tickets-qlora")
        await until(pilot, lambda: "hint: try --set train.lr=2e-4" in text_of(app), "the hint")
        assert "r runs it again" in text_of(app)


async def test_retry_queues_it_again(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        await choose(pilot, seed, "tickets-qlora")
        await pilot.press("r")
        job = seed.ids["tickets-qlora"]
        await until(pilot, lambda: seed.workbench.jobs.get(job).state is JobState.QUEUED, "queued")


async def test_cancel_names_the_job_and_asks(seed: Seed) -> None:
    app = make_app(seed)
    jobs = seed.workbench.jobs
    async with app.run_test() as pilot:
        await choose(pilot, seed, "support-bot")
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
        assert (
            f"support-bot ({seed.ids['support-bot']})" in cast(ConfirmDialog, app.screen).question
        )
        await pilot.press("n")
        await pilot.pause()
        assert jobs.get(seed.ids["support-bot"]).state is JobState.QUEUED
        await pilot.press("x", "y")
        await until(
            pilot,
            lambda: jobs.get(seed.ids["support-bot"]).state is JobState.CANCELLED,
            "cancelled",
        )
        screen = jobs_screen(app)
        await until(
            pilot,
            lambda: screen.detail.job is not None and screen.detail.job.state == "cancelled",
            "the screen tells it",
        )


async def test_pause_and_resume(seed: Seed) -> None:
    app = make_app(seed)
    jobs = seed.workbench.jobs
    job = seed.ids["support-bot"]
    async with app.run_test() as pilot:
        screen = await choose(pilot, seed, "support-bot")
        await pilot.press("p")
        await until(pilot, lambda: jobs.get(job).state is JobState.PAUSED, "paused")
        await until(pilot, lambda: cast(Any, screen.detail.job).state == "paused", "told")
        await pilot.press("p")
        await until(pilot, lambda: jobs.get(job).state is JobState.QUEUED, "queued again")


async def test_a_job_just_submitted_is_the_chosen_one(
    seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the Recipes screen, from its form, and by r here: wherever the cursor was before."""
    app = make_app(seed)
    # what the engine does with a job has tests of its own; here it stays queued
    monkeypatch.setattr(app.workbench.system, "ensure_engine", lambda: None)
    known = set(seed.ids.values())

    async def newest_is_chosen(pilot: Any) -> None:
        await until(
            pilot,
            lambda: (
                app.current_mode == "jobs"
                and (job := jobs_screen(app).detail.job) is not None
                and job.id not in known
                and job.name == "quickstart"
            ),
            "the cursor is on the new job",
        )
        known.add(cast(Any, jobs_screen(app).detail.job).id)

    async with app.run_test() as pilot:
        await choose(pilot, seed, "night-run")
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        await pilot.press("slash", *"quickstart", "enter")
        recipes: Any = app.screen
        await until(pilot, lambda: len(recipes.table.rows) == 1, "filtered")

        def checked() -> bool:
            verdict = cast(FormScreen, app.screen).verdict
            return verdict is not None and bool(verdict.extra)

        for where in ("recipes", "form", "jobs"):
            if where == "form":
                await pilot.press("2", "i")
                await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
                await until(pilot, checked, "checked")
            if where == "jobs":
                await pilot.press("R", *"quickstart", "enter")
            else:
                await pilot.press("r")
            await until(
                pilot,
                lambda: len(seed.workbench.jobs.list().jobs) == len(known) + 1,
                f"submitted from {where}",
            )
            await pilot.press("1")
            await newest_is_chosen(pilot)


async def test_delete_two_selected(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        screen = await choose(pilot, seed, "old-sweep")
        await pilot.press("space", "space", "d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog))
        assert "2 jobs (" in cast(ConfirmDialog, app.screen).question
        await pilot.press("y")
        await until(pilot, lambda: len(screen.table.rows) == 5, "five left")
        assert not seed.paths.run_dir(seed.ids["old-sweep"]).exists()


async def test_a_running_job_is_not_deleted(seed: Seed) -> None:
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test() as pilot:
        await choose(pilot, seed, "house-style")
        await pilot.press("d")
        await until(pilot, lambda: any("cancel it first" in told for told in heard), "refused")
        assert not isinstance(app.screen, ConfirmDialog)


async def test_filter_escape_and_letters_in_the_field(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        await ready(pilot)
        screen = jobs_screen(app)
        await pilot.press("slash", "x", "q", "r")
        assert app.screen.query_one("#filter", Input).value == "xqr"
        assert app.is_running
        await until(pilot, lambda: not screen.table.rows, "nothing matches")
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.table.rows) == 7, "all again")
        assert screen.focused is screen.table
        await pilot.press("slash", *"night", "enter")
        await until(pilot, lambda: [r.item.name for r in screen.table.rows] == ["night-run"])


async def test_sort_keeps_the_chosen_job(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await choose(pilot, seed, "house-style")
        await pilot.press("s", "s", "s")
        assert screen.table.sorted_by == 2
        names = [row.item.name for row in screen.table.rows]
        assert names == sorted(names)
        assert cast(Any, screen.table.current).item.name == "house-style"
        await pilot.press("S")
        assert [row.item.name for row in screen.table.rows] == names[::-1]


async def test_new_rows_keep_the_cursor_and_repaint_one_line(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        screen = await choose(pilot, seed, "night-run")
        seed.job("a-new-one")
        await until(pilot, lambda: len(screen.table.rows) == 8, "the new one")
        assert cast(Any, screen.table.current).item.name == "night-run"


async def test_engine_that_is_gone_is_told(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.engine is not None, "asked")
        assert app.engine is not None
        assert not app.engine.running
        from screens.widgets.top_bar import TopBar

        assert "no engine" in str(app.screen.query_one(TopBar).render())


def _dialog_keys(app: Any) -> str:
    return "".join(str(line.render()) for line in app.screen.query(".dialog-keys").results(Static))


async def test_help_palette_and_command(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        await choose(pilot, seed, "night-run")
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpDialog) and reads(app))
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "Cancel the job" in pane.text, "its text")
        assert "Next row" in pane.text
        await pilot.press("escape", "y")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog))
        dialog = cast(CommandDialog, app.screen)
        assert dialog.command == f"modelops-tui jobs show {seed.ids['night-run']}"
        assert dialog.file.read_text().strip() == dialog.command
        await pilot.press("escape", "colon", *"no such")
        await until(pilot, lambda: "nothing here" in _dialog_keys(app), "an empty list says so")
        await pilot.press("ctrl+u", *"tickets")
        await until(pilot, lambda: "enter chooses" in _dialog_keys(app), "rows again")
        await pilot.press("enter")
        await until(
            pilot,
            lambda: (
                not isinstance(app.screen, ChoiceDialog)
                and cast(Any, jobs_screen(app).detail.job).name == "tickets-qlora"
            ),
            "the palette went to the job",
        )


async def test_zoom_and_back(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        screen = await choose(pilot, seed, "house-style")
        await pilot.press("enter", "z")
        await pilot.pause()
        assert screen.maximized is screen.deck.widget
        await pilot.press("escape")
        assert screen.maximized is None


async def test_hints_belong_to_the_focus(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(140, 36)) as pilot:
        await choose(pilot, seed, "house-style")
        hints = app.screen.query_one(KeyHints)
        await until(pilot, lambda: "x cancel" in str(hints.render()), "hints")
        assert "f follow" not in str(hints.render())
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: "f follow" in str(hints.render()), "the log's hints")


async def test_empty_store_says_what_to_do(tmp_path: Any) -> None:
    empty = Seed(tmp_path / "state")
    app = make_app(empty)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.screen.has_class("empty"), "empty")
        await until(pilot, lambda: "Press r" in text_of(app, "empty"), "what to do")


async def test_widgets_do_not_pile_up(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test() as pilot:
        await choose(pilot, seed, "house-style")
        for _ in range(8):
            await pilot.press("tab")
        await pilot.pause()
        before = len(app.screen.walk_children())
        for _ in range(4):
            await pilot.press("j", "tab", "enter", "escape", "k", "s", "slash", "escape")
        await pilot.pause()
        # the filter line is made when it is first asked for
        assert len(app.screen.walk_children()) <= before + 1


async def test_sorting_does_not_load_what_nobody_went_to(tmp_path: Path) -> None:
    seed = Seed(tmp_path)
    seed.many(1_000)
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: len(jobs_screen(app).jobs) == PAGE, "the first page")
        table = jobs_screen(app).table
        newest = table.current
        await pilot.press("s")
        await until(pilot, lambda: table.current == newest and table.cursor == PAGE - 1, "its row")
        await until(pilot, lambda: not app.workers, "nothing is read")
        assert app.bridge.query.limit == PAGE
        await pilot.press("k", "j")
        await until(pilot, lambda: len(jobs_screen(app).jobs) > PAGE, "the next page, asked for")
    seed.close()


def test_only_attempts_that_were_repeated_are_told_and_bytes_as_sizes(seed: Seed) -> None:
    job_id = seed.ids["house-style"]
    accepted = seed.workbench.jobs.get(job_id)
    steps = tuple(
        replace(step, started=1.0, memo_of=None, outputs={"size_bytes": 105_500_000.0, "kl": 0.05})
        for step in seed.workbench.jobs.steps(job_id)
    )

    def text(attempts: int) -> str:
        job = replace(accepted, attempt=attempts)
        lines = details.overview(details.JobDetail(job=job, steps=steps, now=2.0), 100)
        return "\n".join("".join(part for part, _ in line) for line in lines)

    assert len(steps) > 1
    assert "attempts" not in text(len(steps)), "one attempt a step is nothing to tell"
    assert "attempts" in text(len(steps) + 1)
    assert "size 105.5 MB  kl 0.05" in text(1)
