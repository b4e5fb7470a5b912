"""The rows of a recipe's form: what its kinds allow, its variables, and the sweep over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.api.recipes import KeyView
from screens.recipes.document import RecipeDocument

if TYPE_CHECKING:
    from engine.api.recipes import Recipes

_VARIABLE = re.compile(r"\$\{vars\.([^}]+)\}")
_TYPES = ((bool, "true or false"), (int, "a number"), (float, "a number"), (str, "text"))


@dataclass(frozen=True)
class FormKey:
    """One row: the key's place in this recipe, and what may stand there."""

    place: str
    view: KeyView


def form_keys(document: RecipeDocument, recipes: Recipes) -> list[FormKey]:
    """Every row: variables and sweep first, then what is set, then what must be set, then the rest.

    Args:
        document: the recipe.
        recipes: asked for the keys of the kinds it uses.
    """
    known = {kind.name for kind in recipes.kinds()}
    if document.kind in known:
        keys = [FormKey(view.key, view) for view in recipes.keys(document.kind)]
        keys += _gates(document, "require")
    else:
        keys = []
        for step, kind in document.steps().items():
            if kind in known:
                keys += [FormKey(f"steps.{step}.{v.key}", v) for v in recipes.keys(kind)]
                keys += _gates(document, f"steps.{step}.require")
    keys += _own_keys(keys)

    def rank(key: FormKey) -> tuple[bool, bool]:
        missing = document.get(key.place) is None
        return (missing, missing and not key.view.required)

    ranked = sorted(keys, key=rank)
    return [*_variables(document, keys), *_sweep(document, keys), *ranked]


def unknown_keys(document: RecipeDocument, keys: list[FormKey], wrong: set[str]) -> list[FormKey]:
    """Rows for what stands in the recipe, is a mistake, and is no key of its kind."""
    places = {key.place for key in keys}
    about = "no key of this kind: u takes it out, enter changes its value"
    return [
        FormKey(place, KeyView(place, "not a key here", about, False, None, ()))
        for place in sorted(wrong - places)
        if place and document.get(place) is not None
    ]


def _own_keys(keys: list[FormKey]) -> list[FormKey]:
    """Rows of what the recipe says about itself, where its kind has no such key."""
    known = {key.place for key in keys}
    views = (
        KeyView("name", "text", "the recipe's name; its artifacts begin with it", True, None, ()),
        KeyView("description", "text", "one sentence, shown in the library", False, None, ()),
    )
    return [FormKey(view.key, view) for view in views if view.key not in known]


def _gates(document: RecipeDocument, place: str) -> list[FormKey]:
    """Rows of ``require``: each gate that is set, and all of them as one table."""
    found = document.get(place)
    about = "a gate: the step runs only when this number was reached"
    rows = (
        [
            FormKey(at, KeyView(at, "text: a comparison such as <= 12", about, False, None, ()))
            for at in (f"{place}.{metric}" for metric in found or ())
        ]
        if isinstance(found, Mapping)
        else []
    )
    about = 'gates: numbers of earlier steps, such as { "check.loss" = "<= 2" }'
    return [*rows, FormKey(place, KeyView(place, "a table of gates", about, False, None, ()))]


def sweep_place(place: str) -> str:
    """Where ``[matrix]`` holds a key: a step's name stands for ``steps.<name>``."""
    return f"matrix.{place.removeprefix('steps.')}"


def _variables(document: RecipeDocument, keys: list[FormKey]) -> list[FormKey]:
    """Rows of ``[vars]``: those that are set, and those that something refers to."""
    table = document.get("vars")
    names = list(table) if isinstance(table, Mapping) else []
    used: dict[str, list[FormKey]] = {}
    for key in keys:
        for name in _VARIABLE.findall(str(document.get(key.place) or "")):
            used.setdefault(name, []).append(key)
    rows = []
    for name in [*names, *(n for n in used if n not in names)]:
        users = used.get(name, [])
        whole = [k for k in users if document.get(k.place) == f"${{vars.{name}}}"]
        expected = whole[0].view.expected if whole else _type_of(document.get(f"vars.{name}"))
        told = ", ".join(key.place for key in users)
        about = f"a variable; used by {told}" if told else "a variable; nothing here refers to it"
        view = KeyView(f"vars.{name}", expected, about, bool(users), None, ())
        rows.append(FormKey(f"vars.{name}", view))
    return rows


def _sweep(document: RecipeDocument, keys: list[FormKey]) -> list[FormKey]:
    """Rows of ``[matrix]`` and its ``pick``; none without a sweep."""
    labels = document.leaves("matrix")
    if not labels:
        return []
    views = {sweep_place(key.place): key.view for key in keys}
    rows = []
    for label in labels:
        place = f"matrix.{label}"
        if label == "pick":
            rows.append(FormKey(place, _pick_view()))
            continue
        each = views[place].expected if place in views else "values"
        about = f"every value is tried, in all combinations; each: {each}"
        rows.append(FormKey(place, KeyView(place, "a list", about, True, None, ())))
    if "pick" not in labels:
        rows.append(FormKey("pick", _pick_view()))
    return rows


def _pick_view() -> KeyView:
    about = "which point of the sweep is taken: `min` or `max` of a step's number; none: all"
    return KeyView("pick", "text: min STEP.OUTPUT", about, False, None, ())


def _type_of(value: Any) -> str:
    if value == "":
        return "a value"  # just added: what is written decides
    return next((word for kind, word in _TYPES if isinstance(value, kind)), "a value")
