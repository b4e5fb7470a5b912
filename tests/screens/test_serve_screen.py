"""The Serve screen: what waits for an engine, and a real deployment from the registry to a chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input

from engine.errors import Conflict
from engine.types.serving import DeploymentState
from recipes.gguf.convert import convert
from screens.chat.screen import ChatScreen
from screens.dialogs import CommandDialog, ConfirmDialog, LineDialog
from screens.serve.screen import ServeScreen
from screens.serve.starting import start_options
from screens.widgets.text_pane import TextPane
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed
from tests.screens.test_sync import listen


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("serve") / "tiny.gguf"
    convert(tiny_model, made)
    return str(made)


async def write(pilot: Any, text: str) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, LineDialog), f"a line for {text}")
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


async def shown(pilot: Any) -> ServeScreen:
    await pilot.press("7")
    await until(pilot, lambda: isinstance(pilot.app.screen, ServeScreen), "the screen")
    return cast(ServeScreen, pilot.app.screen)


async def test_one_that_waits_is_pinned_renamed_nowhere_and_told(tmp_path: Path, gguf: str) -> None:
    seed = Seed(tmp_path / "state")
    seed.workbench.serving.start(gguf, name="tiny", engine=False)
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await shown(pilot)
        await until(pilot, lambda: screen.item is not None, "it is listed")
        assert screen.item.state is DeploymentState.WAITING
        assert screen.command_twin() == "modelops-tui serve status tiny"
        await pilot.press("p")
        await until(pilot, lambda: any("stays with this version" in t for t in heard), "pinned")
        assert seed.workbench.serving.get("tiny").pinned
        await pilot.press("Z")
        await until(pilot, lambda: any("does not run" in told for told in heard), "can't sleep")
        await pilot.press("A")
        await write(pilot, "nonsense")
        await until(pilot, lambda: any("write NAME=REF" in told for told in heard), "refused")
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "asked")
        assert "Restart tiny?" in cast(ConfirmDialog, app.screen).question
        await pilot.press("n", "R")
        await write(pilot, f"{gguf} port=x")
        await until(pilot, lambda: any("port can't be 'x'" in told for told in heard), "refused")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, CommandDialog), "a curl line")
        assert app.screen.query_one(TextPane).text.splitlines()[0].startswith("curl http://127.0.0")
        assert cast(CommandDialog, app.screen).command.endswith("}'")
    assert [view.name for view in seed.workbench.serving.list()] == ["tiny"]


def test_what_may_stand_behind_a_model() -> None:
    assert start_options("support@prod") == ("support@prod", {})
    assert start_options("m backend=vllm context=4096 memory='2 GiB' pin adapter=a=b@1") == (
        "m",
        {
            "backend": "vllm",
            "context": 4096,
            "memory": "2 GiB",
            "pinned": True,
            "adapters": {"a": "b@1"},
        },
    )
    for wrong in ("", "name=x", "m contxt=1", "m context=", "m port=x", "m adapter=a"):
        with pytest.raises(ValueError, match=r"model|is none of|can't be"):
            start_options(wrong)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: str) -> Iterator[Seed]:
    """A registry with the tiny model, and an engine that ends with the test."""
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    seed = Seed(tmp_path / "state")
    monkeypatch.setenv("MODELOPS_HOME", str(seed.paths.root))
    seed.workbench.artifacts.add(Path(gguf), name="tiny", artifact_type="quantized")
    yield seed
    for view in seed.workbench.serving.list():
        try:
            seed.workbench.serving.stop(view.name, wait_s=120)
        except Conflict:
            continue
    seed.workbench.system.stop_engine()


@pytest.mark.slow
async def test_from_the_registry_to_an_endpoint_a_chat_and_back(served: Seed) -> None:
    app = make_app(served)
    heard = listen(app)
    serving = served.workbench.serving

    def state() -> DeploymentState | None:
        return next((view.state for view in serving.list()), None)

    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: bool(getattr(app.screen, "item", None)), "the model")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "asked")
        offered = app.screen.query_one(Input).value
        await write(pilot, f"{offered} context=256 threads=1 memory='400 MiB'")
        await until(pilot, lambda: isinstance(app.screen, ServeScreen), "the Serve screen")
        await until(pilot, lambda: state() is DeploymentState.READY, "it answers")
        screen = cast(ServeScreen, app.screen)
        await until(pilot, lambda: screen.item is not None, "it is listed")
        await pilot.press("ctrl+r", "Z")
        await until(pilot, lambda: state() is DeploymentState.ASLEEP, "asleep")
        await until(
            pilot, lambda: bool(screen.item and screen.item.state is DeploymentState.ASLEEP), "seen"
        )
        await pilot.press("Z")
        await until(pilot, lambda: state() is DeploymentState.READY, "awake")
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen), "a chat")
        chat = cast(ChatScreen, app.screen)
        await until(pilot, lambda: [t.model for t in chat.talks] == ["tiny"], "with it")
        chat.query_one("#message", Input).value = "hello"
        chat.query_one("#message", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: bool(chat.talks[0].stats), "it answers here")
        await pilot.press("escape")
        screen = await shown(pilot)
        await until(pilot, lambda: screen.item is not None, "listed")
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "asked")
        await pilot.press("y")
        await until(pilot, lambda: state() is DeploymentState.STOPPED, "stopped")
        await until(
            pilot, lambda: bool(screen.item and screen.item.state is DeploymentState.STOPPED), "so"
        )
        await until(pilot, lambda: "STOPPED" in screen.item.state.name, "told")
        pane = app.screen.query_one("#overview", TextPane)
        await until(pilot, lambda: "stopped" in pane.text, "drawn")
        assert "held for it" not in pane.text
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, ConfirmDialog), "asked again")
        await pilot.press("y")
        await until(pilot, lambda: not serving.list(), "forgotten")
    assert any("tiny is forgotten" in told for told in heard)
