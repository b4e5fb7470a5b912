"""Whatever is in a recipe: a plan, or mistakes with a place inside the text. Never a traceback."""

from __future__ import annotations

import random
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadInput, RecipeInvalid
from engine.recipe import prepare
from engine.recipe.diagnostics import render
from engine.types.recipes import Diagnostic
from tests.engine.recipe.conftest import Bench
from tests.engine.recipe.test_pipeline import STEPS, SWEEP

WORDS = [
    *("kind", "name", "recipe", "vars", "matrix", "pick", "steps", "uses", "require", "train"),
    *("data", "base", "lr", "model", "check", "shrink", "rank", "format", "trainer", "resources"),
    *("finetune", "evaluate", "quantize", "register", "pipeline", "train.lr", "check.perplexity"),
    *("${vars.base}", "${train.model}", "${pick.train.model}", "${env:X}", "${", "$${", "<= 12"),
    *("min check.perplexity", "house/train", "smollm2", "", "\x00", "日本", "a@b", "sha256:12"),
]
SCALAR = (
    st.sampled_from(WORDS) | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.dates()
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
DOCUMENT = st.dictionaries(st.sampled_from(WORDS), VALUE, max_size=8)


def look(text: str, bench: Bench, *sets: str) -> None:
    found: tuple[object, ...] = ()
    try:
        prepare(text, sets, bench.paths, source_path=bench.folder / "junk.toml")
    except RecipeInvalid as error:
        found = error.diagnostics or ("none",)
    except BadInput:
        if not sets:
            raise
    lines = text.split("\n")
    for diagnostic in found:
        assert isinstance(diagnostic, Diagnostic)
        assert render(diagnostic)
        if diagnostic.path != "--set":
            assert 1 <= diagnostic.line <= len(lines)
            assert 1 <= diagnostic.column <= len(lines[diagnostic.line - 1]) + 1


@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(DOCUMENT)
def test_any_values_anywhere(bench: Bench, document: dict[str, Any]) -> None:
    try:
        text = tomlkit.dumps(document)
    except (ValueError, TypeError):
        return
    look(text, bench)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_value_in_a_good_recipe(bench: Bench, data: st.DataObject) -> None:
    document: Any = tomllib.loads(SWEEP + STEPS)
    for _ in range(data.draw(st.integers(1, 3))):
        place = document
        while True:
            key = data.draw(st.sampled_from(sorted(place) + WORDS[:24]))
            if isinstance(place.get(key), dict) and place[key] and data.draw(st.integers(0, 3)):
                place = place[key]
            else:
                place[key] = data.draw(VALUE)
                break
    try:
        text = tomlkit.dumps(document)
    except (ValueError, TypeError):
        return
    look(text, bench)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(WORDS), VALUE)
def test_any_override(bench: Bench, key: str, value: Any) -> None:
    text = str(value) if not isinstance(value, (list, dict)) else tomlkit.item(value).as_string()
    look(SWEEP + STEPS, bench, f"{key}={text}")


@pytest.mark.parametrize("seed", range(40))
def test_any_typing_slip(bench: Bench, seed: int) -> None:
    chosen = random.Random(seed)
    text = SWEEP + STEPS
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(text))
        if chosen.random() < 0.5:
            text = text[:at] + text[at + chosen.randint(1, 3) :]
        else:
            text = text[:at] + chosen.choice(string.printable[:97]) + text[at:]
    look(text, bench)


def test_the_shipped_quickstart_at_every_length(bench: Bench) -> None:
    text = (Path(__file__).parents[3] / "recipes/finetune/quickstart.toml").read_text()
    for end in range(0, len(text), 23):
        look(text[:end], bench)
