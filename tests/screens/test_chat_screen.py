"""The Chat screen with the tiny model: answers, the system prompt, rows and preferences kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from recipes.gguf.convert import convert
from screens.app import WorkbenchApp
from screens.chat.screen import ChatScreen
from screens.dialogs import LineDialog, TextDialog
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, ready, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("chat") / "tiny.gguf"
    convert(tiny_model, made)
    return str(made)


def chat(app: Any) -> ChatScreen:
    assert isinstance(app.screen, ChatScreen)
    return app.screen


async def answer(pilot: Pilot[Any], app: WorkbenchApp, text: str) -> None:
    """Write into the line that is asked for."""
    await until(pilot, lambda: isinstance(app.screen, LineDialog), "asked")
    cast(LineDialog, app.screen).query_one(Input).value = text
    await pilot.press("enter")


async def begin(pilot: Pilot[Any], app: WorkbenchApp, models: str) -> None:
    await ready(pilot)
    await pilot.press("6")
    await until(pilot, lambda: isinstance(app.screen, ChatScreen), "the screen")
    await pilot.press("escape", "m")
    await answer(pilot, app, models)


async def say(pilot: Pilot[Any], app: WorkbenchApp, text: str) -> None:
    """Send a message and wait for the end of all answers."""
    screen = chat(app)
    before = [talk.turn for talk in screen.talks]
    screen.query_one("#message", Input).focus()
    screen.query_one("#message", Input).value = text
    await pilot.press("enter")
    turns: Callable[[], list[int]] = lambda: [t.turn for t in screen.talks]  # noqa: E731
    await until(pilot, lambda: turns() == [t + 1 for t in before], "sent")
    await until(pilot, lambda: not any(t.answering for t in screen.talks), "answered")
    assert [t.problem for t in screen.talks] == ["" for _ in before]
    await pilot.press("escape")


async def test_a_conversation_with_a_system_prompt_is_kept_and_becomes_a_version(
    seed: Seed, gguf: str
) -> None:
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await begin(pilot, app, gguf)
        await until(pilot, lambda: bool(chat(app).talks), "chosen")
        await pilot.press("escape", "s")
        await answer(pilot, app, "temperature=0 max_tokens=4")
        await pilot.press("S")
        await until(pilot, lambda: any("no answer to keep" in t for t in heard), "nothing yet")
        await pilot.press("p")
        await answer(pilot, app, r"Be brief.\nAlways.")
        await until(pilot, lambda: chat(app).system == "Be brief.\nAlways.", "taken")
        await say(pilot, app, "hello there")
        twin = chat(app).command_twin()
        assert "--system" in twin
        assert "--temperature 0" in twin
        assert "--max-tokens 4" in twin
        assert "<|im_start|>system\nBe brief.\nAlways.<|im_end|>" in chat(app).talks[0].prompt
        await pilot.press("S")
        await answer(pilot, app, "talks")
        await until(pilot, lambda: bool(chat(app).waiting), "kept")
        assert "1 row kept" in chat(app).top_bar.crumbs
        (kept,) = seed.workbench.kept.rows("talks")
        assert [turn["role"] for turn in kept["messages"]] == ["system", "user", "assistant"]
        await pilot.press("S")  # its place is known now
        await until(pilot, lambda: len(seed.workbench.kept.rows("talks")) == 2, "again")
        await until(pilot, lambda: "2 rows kept" in chat(app).top_bar.crumbs, "told")
        await pilot.press("W")
        await until(pilot, lambda: not chat(app).waiting, "added")
        assert any("talks@" in told and "2 rows" in told for told in heard)
        await pilot.press("c")
        assert chat(app).talks[0].turns == []
        assert chat(app).talks[0].model == gguf
    assert seed.workbench.data.show("talks").rows == 2


async def test_the_better_of_two_is_kept_and_both_go_on_from_it(seed: Seed, gguf: str) -> None:
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await begin(pilot, app, f"{gguf} {gguf}")
        await until(pilot, lambda: len(chat(app).talks) == 2, "two")
        await pilot.press("escape", "s")
        await answer(pilot, app, "temperature=0 max_tokens=4")
        await say(pilot, app, "which is better?")
        await pilot.press("a")
        await until(pilot, lambda: any("nothing to prefer" in t for t in heard), "the same")
        await pilot.press("s")
        await answer(pilot, app, "temperature=5 top_p=1 max_tokens=12")
        await say(pilot, app, "and now?")
        left, right = chat(app).talks
        chosen, rejected = right.turns[-1], left.turns[-1]
        assert chosen != rejected
        await pilot.press("b")
        await answer(pilot, app, "pairs")
        await until(pilot, lambda: bool(chat(app).waiting), "kept")
        (row,) = seed.workbench.kept.rows("pairs")
        assert row["chosen"] == [chosen.to_json()]
        assert row["rejected"] == [rejected.to_json()]
        assert [turn["content"] for turn in row["prompt"]][-1] == "and now?"
        assert left.turns == right.turns
        assert left.turns[-1] == chosen


async def test_rows_kept_before_are_told_and_a_wrong_name_is_asked_for_again(
    seed: Seed, gguf: str
) -> None:
    seed.workbench.kept.keep("older", {"messages": []})
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await begin(pilot, app, gguf)
        await until(pilot, lambda: "1 row kept" in chat(app).top_bar.crumbs, "told")
        await pilot.press("escape", "s")
        await answer(pilot, app, "max_tokens=2")
        await say(pilot, app, "hello")
        await pilot.press("S")
        await answer(pilot, app, "No Such Name")
        await until(pilot, lambda: any("can't name a dataset" in t for t in heard), "refused")
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "asked again")


async def test_a_model_that_is_not_there_is_told_before_a_message_is_written(seed: Seed) -> None:
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await begin(pilot, app, "smollm2-135m-instrct")
        await until(pilot, lambda: any("there is no model" in told for told in heard), "told")
        assert chat(app).talks == []
        await pilot.press("m")
        await answer(pilot, app, "a b c")
        await until(pilot, lambda: any("at most two" in told for told in heard), "told")
        await pilot.press("P")
        await until(pilot, lambda: isinstance(app.screen, TextDialog), "the prompt")
        pane = app.screen.query_one(TextPane)
        assert pane is not None
