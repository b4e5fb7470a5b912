"""Versions on the Data screen: what changed, bring one back, write it out, remove them all."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine.errors import NotFound
from screens.data.lines import diff_lines
from screens.dialogs import CommandDialog, ConfirmDialog, LineDialog
from screens.text import Line
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, reads, until
from tests.screens.seeded import Seed

FIRST = [{"id": n, "text": f"row {n}"} for n in range(4)]
SECOND = [{"id": 0, "text": "row 0, mended"}, *FIRST[2:], {"id": 9, "text": "row 9"}]


def text(lines: list[Line]) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines)


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    seed = Seed(tmp_path / "state")
    source = tmp_path / "tickets.jsonl"
    for rows in (FIRST, SECOND):
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        seed.workbench.data.import_file(source, "tickets", publish=False)
    return seed


def has(pane: TextPane, part: str) -> bool:
    return part in pane.text


async def opened(pilot: Pilot[Any]) -> Any:
    await pilot.press("3")
    await until(pilot, lambda: bool(getattr(pilot.app.screen, "rows", ())), "datasets")
    screen: Any = pilot.app.screen
    await until(pilot, lambda: screen.item is not None, "one under the cursor")
    return screen


async def told(pilot: Pilot[Any], value: str | None = None) -> None:
    """Answer the question for a line; None: as it was proposed."""
    await until(pilot, lambda: isinstance(pilot.app.screen, LineDialog), "a question")
    if value is not None:
        pilot.app.screen.query_one(Input).value = value
    await pilot.press("enter")


async def sure(pilot: Pilot[Any], *words: str, key: str = "y") -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmDialog), "a confirmation")
    dialog: Any = pilot.app.screen
    for word in words:
        assert word in f"{dialog.question}\n{dialog.consequence}"
    await pilot.press(key)


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
async def test_what_changed_since_another_version(seed: Seed, size: tuple[int, int]) -> None:
    app = make_app(seed)
    async with app.run_test(size=size) as pilot:
        screen = await opened(pilot)
        for answer, parts in (
            (None, ("v1 -> v2: 2 added, 2 removed", "row 0, mended")),
            ("v1 id", ("v1 -> v2: 1 added, 1 removed, 1 changed", "~ id=0", "+ row 0, mended")),
        ):
            await pilot.press("C")
            await told(pilot, answer)
            await until(pilot, lambda: reads(app), "the difference")
            shown = app.screen.query_one(TextPane)
            await until(pilot, partial(has, shown, "->"), "its text")
            for part in parts:
                assert part in shown.text
            await pilot.press("q")
            await until(pilot, lambda: app.screen is screen, "back")


async def test_an_unknown_version_or_column_is_an_error_and_changes_nothing(seed: Seed) -> None:
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        said: list[str] = []
        app.show_error = lambda error: said.append(str(error))  # type: ignore[method-assign]
        screen.say = lambda line, *_a, **_k: said.append(line)
        for answer, word in (("v7", "v7"), ("v1 nothing", "nothing"), ("v1 'id", "quotation")):
            said.clear()
            await pilot.press("C")
            await told(pilot, answer)
            await until(pilot, lambda: bool(said), "the error")
            assert word in said[0]
            await until(pilot, lambda: app.screen is screen, "back")


async def test_an_older_version_comes_back_as_a_new_one(seed: Seed) -> None:
    data = seed.workbench.data
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("u")
        await told(pilot)
        await sure(pilot, "Restore tickets@v1?", "v2 and all others stay", key="n")
        await until(pilot, lambda: app.screen is screen, "back")
        assert data.show("tickets").latest == 2, "no means no"
        await pilot.press("u")
        await told(pilot)
        await sure(pilot)
        await until(pilot, lambda: data.show("tickets").latest == 3, "the new version")
        await until(pilot, lambda: screen.item.latest == 3, "the list has it")
        assert data.rows("tickets").rows == tuple(FIRST)
        assert data.version("tickets@v3").manifest, "signed like an import"


async def test_a_version_is_written_to_a_file_never_over_another_unasked(
    seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "tickets-v2.jsonl"
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("e")
        await told(pilot)
        await until(pilot, target.exists, "the file")
        await until(pilot, lambda: screen.data_task.over and app.screen is screen, "its end")
        assert [json.loads(line) for line in target.read_text().splitlines()] == SECOND
        target.write_text("mine\n")
        await pilot.press("e")
        await told(pilot)
        await sure(pilot, f"Write over {target}?", "5 B", key="n")
        await until(pilot, lambda: app.screen is screen, "back")
        assert target.read_text() == "mine\n"
        await pilot.press("e")
        await told(pilot)
        await sure(pilot)
        await until(pilot, lambda: target.read_text() != "mine\n", "the new file")
        assert len(target.read_text().splitlines()) == len(SECOND)


async def test_an_export_goes_into_a_folder_and_a_wrong_path_is_kept(
    seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        said: list[str] = []
        app.show_error = lambda error: said.append(str(error))  # type: ignore[method-assign]
        screen.say = lambda line, *_a, **_k: said.append(line)
        wrong = str(folder / "tickets.txt")
        for answer in ("~nobody-at-all/x.csv", "x" * 300, wrong):
            said.clear()
            await pilot.press("e")
            await told(pilot, answer)
            await until(pilot, lambda: bool(said), "the error")
            await until(pilot, lambda: app.screen is screen, "back")
        assert ".txt" in said[0]
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "the question again")
        assert app.screen.query_one(Input).value == wrong, "nothing is typed twice"
        await told(pilot, str(folder))
        await until(pilot, (folder / "tickets-v2.jsonl").exists, "the file in the folder")
        await until(pilot, lambda: screen.data_task.over and app.screen is screen, "its end")


async def test_a_large_difference_has_pages_and_a_command(seed: Seed, tmp_path: Path) -> None:
    source = tmp_path / "many.jsonl"
    for first in (0, 1_000):
        rows = [{"id": n, "text": f"row {n}"} for n in range(first, first + 120)]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        seed.workbench.data.import_file(source, "many", publish=False)
    whole = seed.workbench.data.diff("many", "v1", "v2", ("id",), limit=50, offset=100)
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        assert screen.item.name == "many"
        await pilot.press("C")
        await told(pilot, "many@v1 id")
        await until(pilot, lambda: reads(app), "the difference")
        dialog: Any = app.screen
        pane = dialog.query_one(TextPane)
        await until(pilot, lambda: "120 added, 120 removed" in pane.text, "the figures")
        assert "+ id  1000\n" in pane.text
        await pilot.press("less_than_sign")
        assert app.screen is dialog, "there is no page before the first"
        for first in (1050, 1100):
            await pilot.press("greater_than_sign")
            await until(pilot, lambda n=first: f"+ id  {n}\n" in pane.text, "the next page")  # type: ignore[misc]
            await until(pilot, lambda: app.screen is dialog, "its end")
        assert "40 of 240 are on this page, from row 101 of each kind" in pane.text
        assert all(f"+ id  {row['id']}\n" in pane.text for row in whole.added_rows)
        await pilot.press("greater_than_sign")
        assert app.screen is dialog, "there is no page after the last"
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog), "the command")
        command = (seed.workbench.paths.cache / "command.txt").read_text()
        assert command == ("modelops-tui data diff --key id --rows 50 --offset 100 -- many v1 v2\n")
        await pilot.press("q", "q")
        await until(pilot, lambda: app.screen is screen, "back")


async def test_a_version_gets_a_tag_and_loses_it(seed: Seed) -> None:
    data = seed.workbench.data
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        said: list[str] = []
        screen.say = lambda line, *_a, **_k: said.append(line)
        for answer, tags, told_of in (
            ("golden", {"golden": 2}, "tickets@v2 is golden now"),
            ("-golden", {}, "the tag golden of tickets is removed; it was v2"),
        ):
            await pilot.press("t")
            await told(pilot, answer)
            await until(pilot, lambda t=tags: data.show("tickets").tags == t, "the tags")  # type: ignore[misc]
            await until(pilot, lambda t=tags: screen.item.tags == t, "the list has them")  # type: ignore[misc]
            assert said[-1] == told_of
            await until(pilot, lambda: app.screen is screen, "back")


async def test_what_only_old_versions_need_is_freed_after_it_was_told(seed: Seed) -> None:
    data = seed.workbench.data
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        said: list[str] = []
        screen.say = lambda line, *_a, **_k: said.append(line)
        for answer, word in (("soon", "no number"), (None, "Nothing of tickets to free")):
            await pilot.press("V")
            await told(pilot, answer)
            await until(pilot, lambda w=word: any(w in line for line in said), word)  # type: ignore[misc]
            await until(pilot, lambda: app.screen is screen, "back")
        for key in ("n", "y"):
            await pilot.press("V")
            await told(pilot, "0")
            await sure(pilot, "in 1 file of tickets?", "v2 (newest)", key=key)
            await until(pilot, lambda: app.screen is screen, "back")
            if key == "n":
                assert data.rows("tickets@v1").rows == tuple(FIRST), "no means no"
        await until(pilot, lambda: any(line.startswith("freed ") for line in said), "told")
        assert data.vacuum("tickets", 0).files == 0
        assert data.rows("tickets").rows == tuple(SECOND), "the newest stays"


async def test_no_question_follows_to_another_screen(
    seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(seed)
    go = threading.Event()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        read, answered = screen.read_apart, threading.Event()

        def late(what: str, *refs: str) -> Any:
            found = read(what, *refs)
            if what == "pins":
                assert go.wait(60)
                answered.set()
            return found

        monkeypatch.setattr(screen, "read_apart", late)
        await pilot.press("d", "1")
        await until(pilot, lambda: app.screen is not screen, "the Jobs screen")
        go.set()
        await until(pilot, answered.is_set, "the answer")
        await until(pilot, lambda: not screen._answers, "it was taken")
        assert not isinstance(app.screen, ConfirmDialog), "y there must not remove anything"
        assert seed.workbench.data.show("tickets").versions == 2


async def test_a_dataset_is_removed_after_it_was_named(seed: Seed, tmp_path: Path) -> None:
    data = seed.workbench.data
    data.tag("tickets@v1", "golden")
    signed = data.publish("tickets@v2")
    (tmp_path / "adapter.bin").write_bytes(b"weights")
    seed.workbench.artifacts.registry.publish(
        name="house",
        artifact_type="adapter",
        files={"adapter.bin": tmp_path / "adapter.bin"},
        parents=[("trained_on", signed)],
    )
    app = make_app(seed)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        await pilot.press("d")
        words = ("All 2 versions with the tag golden", "Signed", ": v2.", "Made from it: house@1")
        await sure(pilot, "Remove the dataset tickets?", *words, key="enter")
        await until(pilot, lambda: app.screen is screen, "back")
        assert data.show("tickets").versions == 2, "enter alone removes nothing"
        await pilot.press("d")
        await sure(pilot)
        await until(pilot, lambda: not data.list(), "it is gone")
        await until(pilot, lambda: all(row.key != "tickets" for row in screen.rows), "seen")
        with pytest.raises(NotFound):
            data.show("tickets")
        assert seed.workbench.artifacts.resolve(signed).id == signed, "its artifact stays"


async def test_what_comes_with_the_program_has_no_versions(tmp_path: Path) -> None:
    app = make_app(Seed(tmp_path / "state"))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        said: list[str] = []
        screen.say = lambda line, *_a, **_k: said.append(line)
        for key in ("C", "u", "e", "d", "t", "V"):
            await pilot.press(key)
        assert len(said) == 6
        assert all("dataset of your own" in line for line in said)
        assert app.screen is screen


def test_equal_rows_and_the_rest_are_told() -> None:
    none: dict[str, Any] = {"added_rows": [], "removed_rows": [], "changed_rows": []}
    same = {"old": 1, "new": 2, "key": [], "added": 0, "removed": 0, "changed": 0, **none}
    same |= {"columns_added": [], "columns_removed": [], "types_changed": []}
    assert "the rows are the same" in text(diff_lines(same, 80))
    more = {**same, "added": 1_500, "added_rows": [{"a": "x" * 200}], "columns_added": ["b"]}
    shown = text(diff_lines(more, 40))
    assert "1 of 1,500 are on this page" in shown
    assert "+ column b" in shown
    assert "".join(shown.split()).count("x" * 200) == 1, "nothing is cut"
