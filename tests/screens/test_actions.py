"""The registry of actions is whole: methods exist, keys are free, documents are current."""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

from screens.actions import ACTIONS, FORBIDDEN_KEYS, SCREEN_NAMES, Action, keys_document
from screens.app import WorkbenchApp
from screens.frame import WorkScreen
from screens.recipes.form import FormScreen
from screens.settings import read_settings
from screens.widgets.log_view import LogView
from screens.widgets.paged_table import PagedTable
from screens.widgets.text_pane import TextPane

ROOT = Path(__file__).resolve().parents[2]


def holder(action: Action) -> list[type]:
    """The classes of which one must have the method."""
    if action.method.startswith("app."):
        return [WorkbenchApp]
    screens = [import_module(f"screens.{name}.screen").SCREEN for name in SCREEN_NAMES]
    by_place: dict[str, list[type]] = {
        "everywhere": [WorkScreen],
        "list": [PagedTable],
        "text": [TextPane],
        "log": [LogView],
        "form": [FormScreen],
        "panes": [s for s in screens if s.NAME not in ("chat",)],
    }
    if action.method.startswith("screen."):
        return [WorkScreen]
    return by_place.get(action.where) or [s for s in screens if action.where == s.NAME]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.id)
def test_every_action_has_its_method(action: Action) -> None:
    name = action.method.partition(".")[2] if "." in action.method else action.method
    name = name.partition("(")[0]
    for kind in holder(action):
        assert callable(getattr(kind, f"action_{name}", None)), (kind, name)


def test_ids_are_unique() -> None:
    ids = [action.id for action in ACTIONS]
    assert len(ids) == len(set(ids))


def test_no_key_twice_in_a_place_and_none_forbidden() -> None:
    taken: dict[tuple[str, str], str] = {}
    by_key: dict[str, set[str]] = defaultdict(set)
    for action in ACTIONS:
        for key in action.keys.split(","):
            assert key not in FORBIDDEN_KEYS
            assert (action.where, key) not in taken, (action.id, taken[action.where, key])
            taken[action.where, key] = action.id
            by_key[key].add(action.where)
    for key, places in by_key.items():
        screens = places & set(SCREEN_NAMES)
        if "everywhere" in places and key != "escape":
            assert not screens, f"{key} means something else on {screens}"


def test_a_screen_of_texts_takes_no_key_that_a_text_takes() -> None:
    """The focused text would get it first, and the screen never."""
    keys = {
        place: {key for a in ACTIONS if a.where == place for key in a.keys.split(",")}
        for place in ("chat", "text")
    }
    assert not keys["chat"] & keys["text"]


def test_the_document_is_current() -> None:
    assert (ROOT / "docs" / "keys.md").read_text() == keys_document()


def test_settings_are_read_and_what_is_wrong_is_named() -> None:
    settings = read_settings(
        {
            "ui": {"theme": "high-contrast", "mouse": "maybe", "colour": 1, "ascii": "yes"},
            "keys": {"cancel-job": "X", "no-such": "a", "sort": "ctrl+a", "help": 3},
        }
    )
    assert settings.theme == "high-contrast"
    assert settings.keys == {"cancel-job": "X"}
    told = "\n".join(settings.problems)
    for word in ("ui.colour", "ui.mouse", "ui.ascii", "keys.no-such", "ctrl+a", "keys.help"):
        assert word in told
