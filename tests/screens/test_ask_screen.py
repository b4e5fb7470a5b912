"""The Ask screen over a real index, a real service process and a tiny real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input

from recipes.gguf.convert import convert
from screens.ask.lines import Exchange, Talk, chunk_lines, talk_lines
from screens.ask.screen import AskScreen
from screens.dialogs import LineDialog
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed


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
