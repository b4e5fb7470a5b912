"""The other seven screens over real parts: library, registry, datasets, settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input, Static

from engine.api import Workbench
from screens.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from screens.progress import ProgressDialog
from screens.recipes.document import RecipeDocument
from screens.recipes.form import FormScreen
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, reads, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen

BROKEN = """\
recipe = 1
name = "three-mistakes"
kind = "finetune"
base = "smollm2-135m-instruct"   # the packaged one

[data]
train = "house/train"

[train]
metod = "lora"
epochs = -2
lr = "fast"
"""


@pytest.fixture
def empty(tmp_path: Path) -> Seed:
    return Seed(tmp_path / "state")


def text_of(app: Any, pane: str) -> str:
    found = app.screen.query(f"#{pane}")
    return cast(TextPane, found.first()).text if found else ""


async def test_library_text_check_and_form(empty: Seed) -> None:
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        screen: Any = app.screen
        row = next(r for r in screen.rows if r.item.name == "quickstart")
        screen.table.go_to(row.key)
        await until(pilot, lambda: "[steps.train]" in text_of(app, "text"), "its text")
        await pilot.press("c")
        await until(pilot, lambda: "this recipe can run" in text_of(app, "check"), "the verdict")
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
        form = cast(FormScreen, app.screen)
        await until(pilot, lambda: form.verdict is not None, "checked")
        assert form.table.go_to("steps.train.train.epochs")
        await pilot.press("enter", "end", "backspace", *"-3")
        await until(
            pilot,
            lambda: (
                form.verdict is not None
                and any(d.key == "steps.train.train.epochs" for d in form.verdict.diagnostics)
            ),
            "the mistake is named",
        )
        await pilot.press("escape")
        await until(pilot, lambda: bool(form.verdict and form.verdict.extra), "taken back")
        assert form.table.go_to("steps.train.train.epochs")
        await pilot.press("enter", "end", "backspace", "2", "enter")
        await until(pilot, lambda: bool(form.verdict and form.verdict.extra), "checked again")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "a name")
        await pilot.press("enter")
        recipes = empty.workbench.recipes
        await until(pilot, lambda: not isinstance(app.screen, LineDialog | FormScreen), "saved")
        saved = recipes.read("my-quickstart")
        assert "epochs = 2" in saved
        assert saved.splitlines()[0] == Path(row.item.path).read_text().splitlines()[0]


async def test_three_mistakes_at_once(empty: Seed) -> None:
    empty.workbench.recipes.save("three-mistakes", BROKEN)
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        screen: Any = app.screen
        row = next(r for r in screen.rows if r.item.name == "three-mistakes")
        screen.table.go_to(row.key)
        await pilot.press("c")
        await until(pilot, lambda: "3 mistakes" in text_of(app, "check"), "three mistakes")
        await pilot.press("r")
        await until(pilot, lambda: reads(app), "refused")
        refusal = app.screen.query_one(TextPane)
        await until(pilot, lambda: "method" in refusal.text, "with the advice")
        assert not empty.workbench.jobs.list().jobs


async def test_variables_and_a_sweep_in_the_form(empty: Seed) -> None:
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        screen: Any = app.screen
        row = next(r for r in screen.rows if r.item.name == "quickstart")
        screen.table.go_to(row.key)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
        form = cast(FormScreen, app.screen)
        await until(pilot, lambda: form.table.current is not None, "its rows")
        assert form.table.rows[0].key == "vars.base", "variables come first"
        assert form.table.rows[0].cells[2][0].startswith("a model"), "what refers to it says what"
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "a name")
        await pilot.press(*"rank", "enter")
        await until(pilot, lambda: app.screen is form and form._editing, "its value")
        await pilot.press("8", "enter")
        await until(pilot, lambda: form.document.get("vars.rank") == 8, "a number")
        assert form.table.go_to("steps.train.train.lr")
        await pilot.press("v")
        await until(pilot, lambda: form._editing, "the list of values")
        await pilot.press("end", "backspace", *", 1e-4]", "enter")
        assert form.document.get("matrix.train.train.lr") == [5e-4, 1e-4]
        assert form.table.go_to("pick"), "a sweep asks which point is taken"
        await pilot.press("enter", *"min check.perplexity", "enter")
        await until(
            pilot,
            lambda: bool(
                form.verdict and form.verdict.text == form.document.text and form.verdict.extra
            ),
            "it can run",
        )
        plan = form.verdict.extra[0] if form.verdict else None
        assert plan is not None
        assert plan.pick == "min check.perplexity"
        assert {"train@1", "train@2"} <= {step.name for step in plan.steps}
        await pilot.press("v")
        assert form.document.get("matrix.pick") is None, "the pick itself can't be varied"
        # all taken out again: the file is as it was, byte for byte
        for key in ("pick", "matrix.train.train.lr", "vars.rank"):
            assert form.table.go_to(key)
            await pilot.press("u")
        assert form.document.text == Path(row.item.path).read_text()


def test_document_keeps_comments_and_types() -> None:
    document = RecipeDocument(BROKEN)
    document.set("train.lr", "2e-4", "a number above 0")
    document.set("train.epochs", "3", "a number")
    document.set("data.format", "chat", 'one of "chat"')
    document.set("name", "17", "text")
    document.unset("train.metod")
    assert "# the packaged one" in document.text
    assert document.get("train.lr") == 2e-4
    assert document.get("train.epochs") == 3
    assert document.get("name") == "17"
    assert document.get("data.format") == "chat"
    assert "metod" not in document.text


async def test_data_import_rows_and_sql(empty: Seed, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(20)]
    source = tmp_path / "tickets.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows))
    empty.workbench.data.import_file(source, "tickets", publish=False)
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "datasets")
        screen: Any = app.screen
        assert screen.rows[0].key == "tickets"
        await pilot.press("tab")
        await until(pilot, lambda: "answer 19" in text_of(app, "rows"), "its rows")
        await pilot.press("Q", "enter")
        await until(pilot, lambda: reads(app), "the result")
        answer = app.screen.query_one(TextPane)
        await until(pilot, lambda: "0 rows" in answer.text, "how many")


async def test_import_in_a_process_of_its_own(empty: Seed, tmp_path: Path) -> None:
    source = tmp_path / "tickets.jsonl"
    source.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(30)))
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "datasets")
        screen: Any = app.screen
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "which file")
        app.screen.query_one(Input).value = str(source)
        await pilot.press("enter")
        await until(pilot, lambda: "Name of" in getattr(app.screen, "_title", ""), "its name")
        await pilot.press("enter")
        await until(pilot, lambda: screen.rows[0].key == "tickets", "it is listed")
        assert screen.data_task.over
    assert [view.rows for view in empty.workbench.data.list()] == [30]


async def test_an_endless_query_is_stopped(empty: Seed) -> None:
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "datasets")
        screen: Any = app.screen
        screen.run_sql("select sum(a.range * b.range) from range(100000000000) a, range(100000) b")
        await until(pilot, lambda: isinstance(app.screen, ProgressDialog), "it runs")
        await pilot.press("escape", "j", "Q")
        await until(pilot, lambda: isinstance(app.screen, ProgressDialog), "Q shows it again")
        assert not screen.data_task.over
        await pilot.press("x")
        await until(pilot, lambda: app.screen is screen, "stopped")
        assert screen.data_task.over
        screen.run_sql("select 7 as seven -- the next one works")
        await until(pilot, lambda: reads(app), "the answer")
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "seven" in pane.text, "with its column")


def publish(workbench: Workbench, folder: Path, name: str, text: str) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "model.txt").write_text(text)
    return workbench.artifacts.add(
        folder, name=name, artifact_type="report", license="Apache-2.0", card=f"About {name}."
    )


async def test_registry_details_promotion_and_comparison(empty: Seed, tmp_path: Path) -> None:
    publish(empty.workbench, tmp_path / "a", "first-report", "one")
    publish(empty.workbench, tmp_path / "b", "second-report", "two")
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: len(getattr(app.screen, "rows", ())) == 2, "two artifacts")
        screen: Any = app.screen
        await until(pilot, lambda: "valid" in text_of(app, "overview"), "its signature")
        await pilot.press("tab", "tab")
        await until(pilot, lambda: "model.txt" in text_of(app, "files"), "its files")
        await pilot.press("space", "space", "c")
        await until(pilot, lambda: reads(app), "compared")
        compared = app.screen.query_one(TextPane)
        await until(pilot, lambda: "differ" in compared.text, "file by file")
        await pilot.press("escape", "p")
        await until(pilot, lambda: bool(app.screen.query("#choices")), "the stages")
        await pilot.press(*"dev", "enter")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "the gates")
        assert "to dev?" in cast(ConfirmDialog, app.screen).question
        await pilot.press("y")
        artifacts = empty.workbench.artifacts
        await until(pilot, lambda: bool(artifacts.list(stage="dev")), "promoted")
        await until(pilot, lambda: any("dev" in r.cells[3][0] for r in screen.rows), "and shown")


async def test_empty_screens_say_what_to_do(empty: Seed) -> None:
    app = make_app(empty)
    async with app.run_test() as pilot:
        for key, words in (("4", "register step"), ("5", "u indexes")):
            await pilot.press(key)
            await until(pilot, lambda: app.screen.has_class("empty"), key)
            await until(pilot, lambda: words in text_of(app, "empty"), words)  # noqa: B023


async def test_system_panes(empty: Seed) -> None:
    empty.paths.config.write_text("[engine]\ngrace_s = 12.5\n")
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("8")
        await until(pilot, lambda: "no engine runs" in text_of(app, "machine"), "the machine")
        await pilot.press("tab")
        await until(pilot, lambda: "jobs.db" in text_of(app, "disk"), "the disk")
        await pilot.press("tab")
        await until(pilot, lambda: "12.5" in text_of(app, "settings"), "the settings")
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "jobs", "home")


async def test_themes_and_keymap(empty: Seed) -> None:
    from screens.settings import UiSettings

    app = make_app(empty, settings=UiSettings(theme="workbench-dark", keys={"next-theme": "f9"}))
    async with app.run_test() as pilot:
        await pilot.press("T")
        assert app.theme == "workbench-dark"
        await pilot.press("f9")
        assert app.theme == "workbench-light"


async def test_a_new_recipe_of_a_kind_and_a_translated_one(empty: Seed, tmp_path: Path) -> None:
    foreign = tmp_path / "My Run.yml"
    foreign.write_text(
        "base_model: HuggingFaceTB/SmolLM2-135M\nadapter: lora\nlora_r: 16\n"
        "datasets:\n  - path: rows.jsonl\n    type: chat_template\n"
        "learning_rate: 3e-4\nsome_odd_key: 7\n"
    )
    app = make_app(empty)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        screen: Any = app.screen
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the kinds")
        await pilot.press(*"quantize", "enter")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "a name")
        await pilot.press("enter")
        await until(pilot, lambda: bool(screen.item and screen.item.name == "my-quantize"), "made")
        assert 'kind = "quantize"' in Path(screen.item.path).read_text()
        await pilot.press("I")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "which file")
        app.screen.query_one(Input).value = str(foreign)
        await pilot.press("enter")
        named = lambda: (  # noqa: E731
            isinstance(app.screen, LineDialog) and app.screen.query_one(Input).value == "my-run"
        )
        await until(pilot, named, "its name")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "the report")
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "some_odd_key = 7" in pane.text, "what was left out")
        assert "axolotl" in pane.text
        await pilot.press("escape")
        await until(pilot, lambda: bool(screen.item and screen.item.name == "my-run"), "chosen")
        assert "lr = 0.0003" in Path(screen.item.path).read_text()


async def test_backends_are_listed_made_and_removed(
    empty: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what it says first needs no network
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty.paths.root / "nowhere"))
    app = make_app(empty)
    heard = listen(app)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("8")
        await until(pilot, lambda: "engine" in text_of(app, "machine"), "the machine")
        screen: Any = app.screen
        screen.deck.show("backends")
        await until(pilot, lambda: "gptqmodel" in text_of(app, "backends"), "all of them")
        assert screen.command_twin() == "modelops-tui backends list"
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "those that are made")
        assert app.screen.query_one(".dialog-keys", Static).content == (
            "no backend has an environment; esc leaves"
        )
        await pilot.press("escape", "i")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "which")
        await pilot.press(*"gptqmodel", "enter")
        await until(pilot, lambda: bool(screen.backend_task and screen.backend_task.over), "over")
        # no package can be fetched: it is told why, and nothing half-made counts
        await until(pilot, lambda: any("gptqmodel" in told for told in heard), "told")
        states = {s.spec.name: s.state for s in empty.workbench.backends.list()}
        assert states["gptqmodel"] != "ready"
