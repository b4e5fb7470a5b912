"""Two models asked at once: in columns on a terminal, one below the other in a pipe."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Conflict
from engine.types.serving import ChatPiece
from modelops_tui.cli.chat_streams import InTurn, Quiet, together
from recipes.gguf.convert import convert
from tests.modelops_tui.front_door import FrontDoor
from tests.terminal.session import Session


@pytest.fixture(scope="module")
def two(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("chat")
    convert(tiny_model, folder / "one.gguf")
    shutil.copy(folder / "one.gguf", folder / "other.gguf")
    return str(folder / "one.gguf"), str(folder / "other.gguf")


def said(*texts: str) -> list[ChatPiece]:
    return [*(ChatPiece("text", text, {}) for text in texts), ChatPiece("end", "".join(texts), {})]


def test_all_are_asked_before_any_has_answered(capsys: pytest.CaptureFixture[str]) -> None:
    both = threading.Barrier(2)

    def ask(text: str) -> Iterator[ChatPiece]:
        both.wait(60)  # raises unless the other one is asked too
        yield from said(text, "!")

    ends: list[tuple[int, str]] = []
    together(
        [lambda: ask("one"), lambda: ask("two")],
        ["m", "n"],
        InTurn(["[a] m", "[b] n"]),
        lambda side, piece: ends.append((side, piece.text)),
    )
    assert sorted(ends) == [(0, "one!"), (1, "two!")]
    assert capsys.readouterr().out == "[a] m\none!\n[b] n\ntwo!\n"


def test_one_model_twice_is_asked_in_turn() -> None:
    busy = threading.Lock()

    def ask() -> Iterator[ChatPiece]:
        assert busy.acquire(blocking=False), "its process has one conversation at a time"
        yield from said("x")
        busy.release()

    together([ask, ask], ["m", "m"], Quiet(), lambda side, piece: None)


def test_the_other_answer_is_shown_before_a_failure_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> Iterator[ChatPiece]:
        yield from said("half")[:1]
        raise Conflict("its server is gone")

    with pytest.raises(Conflict, match="gone"):
        together(
            [broken, lambda: iter(said("whole"))],
            ["m", "n"],
            InTurn(["[a] m", "[b] n"]),
            lambda side, piece: None,
        )
    assert capsys.readouterr().out == "[a] m\nhalf\n[b] n\nwhole\n"


def test_in_a_pipe_one_stands_below_the_other(tmp_path: Path, two: tuple[str, str]) -> None:
    done = FrontDoor(tmp_path)("chat", two[0], "hello", "--beside", two[1], "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    titles = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert titles == [f"[a] {two[0]}", f"[b] {two[1]}"]
    assert re.findall(r"^\[([ab])\] \d+ tokens", done.stderr, re.MULTILINE) == ["a", "b"]


def test_on_a_terminal_they_stand_side_by_side(tmp_path: Path, two: tuple[str, str]) -> None:
    door = FrontDoor(tmp_path)
    words = ["chat", two[0], "hello", "--beside", two[1], "--max-tokens", "4"]
    argv = [sys.executable, "-m", "modelops_tui", *words]
    session = Session(argv, door.env, size=(300, 24))
    try:
        assert session.end() == 0, session.text
        heads = [line for line in re.split(r"[\r\n]+", session.text) if f"[a] {two[0]}" in line]
        assert heads
        assert all(f"[b] {two[1]}" in line for line in heads), heads
    finally:
        session.close()
