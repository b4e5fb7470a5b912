"""``chat`` as a person uses it, on the tiny model: asked once, side by side, kept as data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.api import Workbench
from engine.paths import StatePaths
from engine.recipe import prepare
from recipes.gguf.convert import convert
from tests.faults.harness import PATIENCE
from tests.modelops_tui.front_door import FrontDoor


@pytest.fixture(scope="module")
def gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("chat") / "tiny.gguf"
    convert(tiny_model, made)
    return str(made)


@pytest.fixture
def door(tmp_path: Path) -> FrontDoor:
    return FrontDoor(tmp_path)


def test_a_question_is_an_argument_and_the_answer_is_all_of_stdout(
    door: FrontDoor, gguf: str
) -> None:
    done = door("chat", gguf, "hello there", "--max-tokens", "6", "--temperature", "0", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["model"] == gguf
    assert "<|im_start|>user\nhello there<|im_end|>" in row["prompt"]
    assert row["tokens"] <= 6
    plain = door("chat", gguf, "hello there", "--max-tokens", "6", "--temperature", "0")
    assert plain.stdout.strip() == row["answer"].strip()
    assert "tokens/s" in plain.stderr


@pytest.mark.slow
def test_the_better_of_two_becomes_a_row_a_preference_recipe_trains_on(
    door: FrontDoor, gguf: str, tiny_model: Path
) -> None:
    ask = ("chat", gguf, "which is better?", "--beside", gguf, "--max-tokens", "12")
    same = door(*ask, "--temperature", "0", "--prefer", "a", "--dataset", "pairs")
    assert "nothing to prefer" in same.stderr
    varied = (*ask, "--temperature", "3", "--top-p", "1")
    for better in ("a", "b"):
        done = door(*varied, "--prefer", better, "--dataset", "pairs", "--save", "kept.jsonl")
        assert done.returncode == 0, done.stderr
        assert "pairs@" in done.stderr
    lines = (door.folder / "kept.jsonl").read_text().splitlines()
    assert len(lines) == 2
    state = StatePaths(door.folder / "state")
    page = Workbench(state.root).data.rows("pairs")
    assert [set(row) >= {"prompt", "chosen", "rejected"} for row in page.rows] == [True, True]
    recipe = f'''
        kind = "finetune"
        base = "{tiny_model}"
        [data]
        train = "pairs@latest"
        [train]
        method = "dpo"
    '''
    plan = prepare(recipe, paths=state, source_path=door.folder / "r.toml")
    assert plan.steps[0].params["train"]["method"] == "dpo"


def test_a_conversation_by_lines_keeps_what_it_was_told_to(door: FrontDoor, gguf: str) -> None:
    talk = "hello\n/save\n/prompt\n/nonsense\n/quit\n"
    done = subprocess.run(
        [sys.executable, "-m", "modelops_tui", "chat", gguf, "--system", "Be brief.",
         "--max-tokens", "4", "--save", "rows.jsonl"],
        input=talk, capture_output=True, text=True, cwd=door.folder, env=door.env, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>system\nBe brief.<|im_end|>" in done.stdout
    (row,) = map(json.loads, (door.folder / "rows.jsonl").read_text().splitlines())
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert "/save keeps" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("smollm2", "hi", "--prefer", "a"), "--beside"),
        (("smollm2", "hi", "--beside", "smollm2", "--prefer", "a"), "place to keep"),
        (("smollm2", "--beside", "smollm2", "--prefer", "c", "--save", "x"), "a|b"),
        (("no-such-model", "hi"), "there is no model 'no-such-model'"),
    ],
)
def test_mistakes_are_told(door: FrontDoor, words: tuple[str, ...], reason: str) -> None:
    done = door("chat", *words)
    assert done.returncode != 0
    assert reason in done.stderr
    assert not (door.folder / "x").exists()
