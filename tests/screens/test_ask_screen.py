"""The Ask screen over a real index, a real service process and a tiny real model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from textual.widgets import Input

from recipes.gguf.convert import convert
from screens.ask.lines import Exchange, Talk, chunk_lines, talk_lines
from screens.ask.screen import AskScreen
from screens.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from screens.progress import ProgressDialog, Task
from screens.text import UNICODE
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen


@pytest.fixture
def asked(tmp_path: Path, tiny_model: Path) -> tuple[Seed, Path]:
    """A state directory with an index of two files, and a model that answers at once."""
    folder = tmp_path / "animals"
    folder.mkdir()
    (folder / "penguins.md").write_text("# Penguins\n\nPenguins eat krill, squid and small fish.\n")
    (folder / "cats.md").write_text("# Cats\n\nCats sleep sixteen hours a day and purr.\n")
    gguf = tmp_path / "tiny.gguf"
    convert(tiny_model, gguf)
    seed = Seed(tmp_path / "state")
    for _ in seed.workbench.rag.sync(str(folder), "animals"):
        pass
    seed.workbench.rag.close()
    return seed, gguf


async def write(pilot: Any, text: str) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, LineDialog), f"a line for {text}")
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


def shown(app: Any, pane: str) -> str:
    found = app.screen.query(f"#{pane}")
    return cast(TextPane, found.first()).text if found else ""


@pytest.mark.slow
async def test_a_conversation_with_a_chosen_model(asked: tuple[Seed, Path]) -> None:
    seed, gguf = asked
    app = make_app(seed)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the index")
        screen = cast(AskScreen, app.screen)
        await pilot.press("m")
        await write(pilot, str(gguf))
        await until(pilot, lambda: screen.model == str(gguf), "who answers")
        await pilot.press("i")
        await write(pilot, "What do penguins eat?")
        await until(pilot, lambda: bool(screen.exchange and screen.exchange.over), "an answer")
        await until(pilot, lambda: "krill" in shown(app, "answer"), "it is shown")
        text = shown(app, "answer")
        assert "penguins.md § Penguins" in text
        assert "of 800 tokens" in text
        first = cast(Exchange, screen.exchange)
        assert first.answer is not None
        assert first.answer.model == "tiny.gguf" or "tiny" in first.answer.model
        screen.deck.show("chunks")
        await until(pilot, lambda: "source [1]" in shown(app, "chunks"), "what became of a chunk")
        screen.deck.show("prompt")
        await until(pilot, lambda: "Sources:" in shown(app, "prompt"), "the exact prompt")

        await pilot.press("i")
        await write(pilot, "How long do cats sleep?")
        await until(pilot, lambda: screen.exchange is not first, "the second question")
        await until(pilot, lambda: bool(screen.exchange and screen.exchange.over), "its answer")
        second = cast(Exchange, screen.exchange)
        assert second.answer is not None
        assert "What do penguins eat?" in second.answer.prompt, "it is a conversation"
        screen.deck.show("answer")
        await until(pilot, lambda: "? What do penguins eat?" in shown(app, "answer"), "both")
        assert screen.command_twin().endswith(f"--model {gguf}")

        await pilot.press("c")
        await until(pilot, lambda: "asks animals a question" in shown(app, "answer"), "begun anew")
        await pilot.press("m")
        await write(pilot, "no-such-model")
        await until(pilot, lambda: screen.model == "no-such-model", "a wrong one")
        await pilot.press("i")
        await write(pilot, "What do penguins eat?")
        await until(pilot, lambda: "no model 'no-such-model'" in shown(app, "answer"), "told")
        assert screen.exchange is not None
        assert screen.exchange.over


def test_an_answer_in_the_making_shows_its_words_and_phase() -> None:
    exchange = Exchange("Why?", text="Because the", phase="writing")
    text = "\n".join("".join(t for t, _ in line) for line in talk_lines(Talk([exchange]), 60))
    assert "Because the" in text
    assert "writing" in text
    assert chunk_lines(exchange, 60) == [[("writing", "dim")]]


async def test_the_chunks_of_a_file_and_which_documents_are_asked(asked: tuple[Seed, Path]) -> None:
    seed, gguf = asked
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: bool(getattr(app.screen, "rows", ())), "the index")
        screen = cast(AskScreen, app.screen)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the files")
        await pilot.press(*"peng", "enter")
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "its chunks")
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "words: penguin penguin eat krill" in pane.text, "the words")
        assert "#0 [12:53]  10 tokens" in pane.text
        await pilot.press("escape", "F")
        await write(pilot, "colour=red")
        await until(pilot, lambda: any("'colour=red' is no filter" in t for t in heard), "refused")
        await pilot.press("F")
        await write(pilot, "path=cats.* tag=a tag='b c'")
        await until(pilot, lambda: bool(screen.filters), "taken")
        assert screen.filters == {"path": "cats.*", "tags": ["a", "b c"]}
        screen.filters = {"path": "cats.*"}
        screen.model = str(gguf)
        await pilot.press("i")
        await write(pilot, "What do penguins eat?")
        await until(pilot, lambda: bool(screen.exchange and screen.exchange.over), "an answer")
        assert screen.exchange is not None
        assert screen.exchange.retrieval is not None
        assert {hit.path for hit in screen.exchange.retrieval.hits} == {"cats.md"}
        assert screen.command_twin().endswith("--path 'cats.*'")


async def test_retrieval_is_measured_and_two_ways_compared(
    asked: tuple[Seed, Path], tmp_path: Path
) -> None:
    seed, _ = asked
    questions = tmp_path / "questions"
    questions.mkdir()
    (questions / "queries.jsonl").write_text('{"id": "q1", "text": "What do penguins eat?"}\n')
    (questions / "qrels.tsv").write_text("q1\tpenguins.md\t1\n")
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: bool(getattr(app.screen, "item", None)), "the index")
        await pilot.press("M")
        await write(pilot, f"{questions} fuzzy")
        await until(pilot, lambda: any("is no way to search" in t for t in heard), "refused")
        await pilot.press("M")
        await write(pilot, str(questions))
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "measured")
        pane = app.screen.query_one(TextPane)
        await until(pilot, lambda: "ndcg@10" in pane.text, "the figures")
        assert "bm25 against hybrid" in pane.text
        assert "1 equal" in pane.text


async def test_indexes_are_made_synced_and_removed_here(tmp_path: Path) -> None:
    folder = tmp_path / "my notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Penguins\n\nPenguins eat krill, squid and small fish.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    seed = Seed(tmp_path / "state")
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, AskScreen), "the screen")
        screen = cast(AskScreen, app.screen)
        await pilot.press("u")
        await write(pilot, str(folder))
        await until(
            pilot,
            lambda: (
                isinstance(app.screen, LineDialog)
                and app.screen.query_one(Input).value == "my-notes"
            ),
            "a name for it",
        )
        await pilot.press("enter")
        await until(pilot, lambda: screen.sync_task is not None, "it begins")
        await until(pilot, lambda: bool(screen.rows), "it is listed")
        await until(pilot, lambda: not isinstance(app.screen, ProgressDialog), "and left")
        assert any("1 added; 1 file could not be read" in told for told in heard)
        (folder / "b.md").write_text("# Cats\n\nCats sleep sixteen hours a day and purr.\n")
        await until(pilot, lambda: screen.item is not None, "it is chosen")
        await pilot.press("u")
        await until(pilot, lambda: any("2 documents" in told for told in heard), "synced")
        await pilot.press("U")
        await until(
            pilot, lambda: any("2 documents" in t and "2 added" in t for t in heard), "anew"
        )
        await pilot.press("p")
        await until(pilot, lambda: any("my-notes is signed" in told for told in heard), "signed")
        assert [v.name for v in seed.workbench.artifacts.list(artifact_type="index")] == [
            "my-notes"
        ]
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "asked")
        assert "my-notes" in cast(ConfirmDialog, app.screen).question
        await pilot.press("y")
        await until(pilot, lambda: not screen.rows, "removed")
    assert seed.workbench.rag.list() == ()
    assert (folder / "b.md").exists()


def service_of(kind: str) -> list[psutil.Process]:
    """The service processes that this one has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            found += [child] if child.cmdline()[-2:] == ["engine.worker.service", kind] else []
    return found


async def test_a_sync_that_does_not_end_when_it_is_stopped_is_ended(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(500):
        (folder / f"{number}.md").write_text(f"# Note {number}\n\n" + f"word{number} " * 200)
    seed = Seed(tmp_path / "state")
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, AskScreen), "the screen")
        screen = cast(AskScreen, app.screen)
        others = {process.pid for process in service_of("rag")}
        screen._sync(str(folder), "many", rebuild=False)
        fresh = lambda: [p for p in service_of("rag") if p.pid not in others]  # noqa: E731
        await until(pilot, lambda: bool(fresh()), "its process")
        (process,) = fresh()
        process.suspend()
        await until(pilot, lambda: isinstance(app.screen, ProgressDialog), "how far it is")
        await pilot.press("escape", "a")
        await until(pilot, lambda: isinstance(app.screen, ProgressDialog), "the key shows it")
        await pilot.press("x")
        await until(pilot, lambda: any("the next sync goes on" in told for told in heard), "told")
        assert screen.sync_task is not None
        assert screen.sync_task.over
        assert not process.is_running()


def test_files_are_counted_not_weighed() -> None:
    task = Task("Index", unit="files")
    task.tell("indexing", "a.md", 1_200, 3_000)
    text = "\n".join("".join(part for part, _ in line) for line in task.lines(60, UNICODE))
    assert "1,200 of 3,000 files" in text
    assert "indexing  a.md" in text
