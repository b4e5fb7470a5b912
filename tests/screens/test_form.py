"""What the form edits beside the keys of a kind: the recipe's own words, and gates."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from screens.recipes.document import RecipeDocument
from screens.recipes.form import FormScreen
from tests.screens.conftest import make_app, until
from tests.screens.seeded import RECIPE, Seed


def checked(form: FormScreen) -> bool:
    return form.verdict is not None and form.verdict.text == form.document.text


async def test_name_description_and_gates_in_the_form(tmp_path: Path) -> None:
    seed = Seed(tmp_path / "state")
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        screen: Any = app.screen
        row = next(r for r in screen.rows if r.item.name == "quickstart")
        screen.table.go_to(row.key)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
        form = cast(FormScreen, app.screen)
        await until(pilot, lambda: checked(form), "checked")
        gate = "steps.publish.require.check.perplexity"
        assert form.table.go_to(gate)
        assert form.table.rows[form.table.cursor].cells[1][0] == "<= 25"
        await pilot.press("enter", "ctrl+u", *"around 3")
        await until(pilot, lambda: checked(form) and not form.verdict.extra, "no gate")  # type: ignore[union-attr]
        await pilot.press("ctrl+u", *"<= 20", "enter")
        await until(pilot, lambda: checked(form) and bool(form.verdict.extra), "a gate")  # type: ignore[union-attr]
        assert form.verdict is not None
        (publish,) = [s for s in form.verdict.extra[0].steps if s.name == "publish"]
        assert publish.require == {"check.perplexity": "<= 20"}
        for place, text in (
            ("name", "my-own"),
            ("description", "Ours"),
            ("steps.shrink.require", '{ "check.perplexity" = "<= 30" }'),
        ):
            assert form.table.go_to(place), place
            await pilot.press("enter", "ctrl+u", *text, "enter")
        await until(pilot, lambda: checked(form) and bool(form.verdict.extra), "can run")  # type: ignore[union-attr]
        assert form.verdict.extra[0].name == "my-own"
        before = Path(row.item.path).read_text().splitlines()
        after = form.document.text.splitlines()
        made = tomllib.loads(form.document.text)
        assert made["description"] == "Ours"
        assert made["steps"]["shrink"]["require"] == {"check.perplexity": "<= 30"}
        assert [line for line in before if line.startswith("#")] == after[:4], "comments are kept"
        # what was not touched is as it was written
        assert len(after) == len(before) + 2
        assert len([line for line in after if line in before]) == len(before) - 2
    seed.close()


@pytest.mark.parametrize(
    "text",
    [
        'kind = "finetune"\nx = [\n',
        'kind = "finetune"\ntrain = 3\ndata = "x"\n',
        'kind = "pipeline"\nsteps = 3\n',
        'kind = "pipeline"\nvars = 1\nmatrix = 2\n[steps]\na = 1\n',
        'kind = "nobody-knows"\n',
    ],
)
async def test_the_form_of_any_text_leaves_the_screens_alive(tmp_path: Path, text: str) -> None:
    seed = Seed(tmp_path / "state")
    folder = tmp_path / "state" / "recipes"
    folder.mkdir(parents=True)
    (folder / "strange.toml").write_text(text)
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        await pilot.press("slash", *"strange", "enter")
        recipes: Any = app.screen
        await until(pilot, lambda: len(recipes.table.rows) == 1, "filtered")
        await pilot.press("i")
        check = lambda: recipes.deck.current == "check"  # noqa: E731
        await until(
            pilot,
            lambda: checked(app.screen) if isinstance(app.screen, FormScreen) else check(),
            "the form, or the mistakes",
        )
        await pilot.press("escape", "1")
        await until(pilot, lambda: app.current_mode == "jobs", "it goes on")
    seed.close()


def test_a_table_in_the_place_of_a_value_takes_nothing_else() -> None:
    document = RecipeDocument('train = 3\ndata = "x"\n')
    document.set("train.lr", "0.1")
    assert tomllib.loads(document.text) == {"train": {"lr": 0.1}, "data": "x"}


async def test_an_emptied_field_stays_that_of_its_key(tmp_path: Path) -> None:
    """Emptied, a wrong key leaves the recipe; what is written then goes to no other key."""
    seed = Seed(tmp_path / "state")
    text = RECIPE.replace("method =", "methd =")
    assert text != RECIPE
    seed.workbench.recipes.save("wrong-key", text)
    app = make_app(seed)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the library")
        await pilot.press("slash", *"wrong-key", "enter")
        screen: Any = app.screen
        await until(pilot, lambda: len(screen.table.rows) == 1, "filtered")
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, FormScreen), "the form")
        form = cast(FormScreen, app.screen)
        await until(pilot, lambda: checked(form), "checked")
        before = tomllib.loads(form.document.text)
        assert form.table.go_to("train.methd")
        await pilot.press("enter", "ctrl+u")
        await until(pilot, lambda: "methd" not in form.document.text, "emptied")
        await pilot.press(*"dora")
        await until(pilot, lambda: "dora" in form.document.text, "written")
        await pilot.press("enter")
        after = tomllib.loads(form.document.text)
        assert after["train"].pop("methd") == "dora"
        before["train"].pop("methd")
        assert after == before
    seed.close()


def test_recipes_over_own_datasets_are_checked_in_another_process(tmp_path: Path) -> None:
    seed = Seed(tmp_path / "state")
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "some words to learn"}\n' * 40)
    seed.workbench.data.import_file(source, "mine")
    seed.close()
    good = RECIPE + '\n[data]\ntrain = "mine@latest"\n'
    code = f"""
import sys
from pathlib import Path
from engine.api import Workbench
from engine.errors import RecipeInvalid
from screens.recipes.apart import planned

workbench = Workbench(Path({str(tmp_path / "state")!r}))
plan, estimates = planned(workbench, {good!r})
assert plan.data_versions and set(estimates) == {{step.name for step in plan.steps}}, plan
try:
    planned(workbench, {good.replace("epochs = 2", "epochs = -2")!r})
except RecipeInvalid as error:
    assert error.diagnostics[0].key == "train.epochs", error.diagnostics
else:
    raise AssertionError("a mistake was not found")
print(sorted({{"duckdb", "pyarrow", "deltalake", "numpy", "tokenizers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("key", ["require", "train.require"])
def test_a_table_is_written_into_its_line(key: str) -> None:
    document = RecipeDocument(RECIPE)
    document.set(key, '{ "check.loss" = "<= 2" }', "a table of gates")
    assert document.get(key) == {"check.loss": "<= 2"}
    assert document.shown(key) == '{"check.loss" = "<= 2"}'
    line = next(line for line in document.text.splitlines() if line.startswith("require"))
    assert "check.loss" in line
    assert document.get(f"{key}.check.loss") == "<= 2"


def test_an_emptied_gate_and_a_table_within_a_line() -> None:
    text = 'data = { train = "a" }\nrequire = { "check.loss" = "<= 2" }  # ours\n'
    document = RecipeDocument(text)
    document.unset("require.check.loss")
    document.set("require.check.loss", "<= 2")
    assert tomllib.loads(document.text) == tomllib.loads(text)
    assert document.text.endswith("# ours\n")
    document.set("data.truth.limit", "3")
    assert tomllib.loads(document.text)["data"] == {"train": "a", "truth": {"limit": 3}}
