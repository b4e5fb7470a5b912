"""``/api/recipes`` and ``/api/kinds``: the library, checking, the grammar."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from engine.api.recipes import KindView
from engine.errors import NotFound
from engine.types.recipes import Diagnostic, LibraryEntry
from modelops_tui.gateway.place import Given, Name, Place, Text, body, group, plain

RecipeName = Annotated[
    str, Path(max_length=90, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["my-evaluation"])
]
_TEXT = 'kind = "evaluate"\nmodel = "smollm2"\ndata = "house/heldout"\n'


class Check(Given):
    """A recipe to check."""

    model_config = body({"recipe": _TEXT, "sets": []})
    recipe: Annotated[str, Field(max_length=1 << 20)]
    sets: Annotated[list[str], Field(max_length=100, default_factory=list)]


class RecipeText(Given):
    """The text of a recipe."""

    model_config = body({"recipe": _TEXT, "overwrite": True})
    recipe: Annotated[str, Field(max_length=1 << 20)]
    overwrite: bool = False


class Recipe(BaseModel):
    """A recipe of the library."""

    name: str
    recipe: str


class Checked(BaseModel):
    """What a check found."""

    ok: bool
    diagnostics: list[Diagnostic]
    explained: list[str]
    """The plan in words, where there are no mistakes."""


class Key(BaseModel):
    """One key of a kind."""

    key: str
    expected: str
    description: str
    required: bool
    default: Any
    choices: list[str]


def routes(place: Place) -> APIRouter:
    """Everything about recipes."""
    router, recipes, gate = group("recipes"), place.bench.recipes, place.gate
    read, run = [gate.needs("read")], [gate.needs("run")]

    @router.get("/api/recipes", dependencies=read)
    def library(
        kind: Annotated[str, Query(max_length=64)] = "", text: Text = ""
    ) -> list[LibraryEntry]:
        """The library: shipped recipes, those of plugins, and your own."""
        return list(recipes.library(kind, text))

    @router.get("/api/recipes/{name}", dependencies=read)
    def read_recipe(name: RecipeName) -> Recipe:
        """The text of a recipe of the library."""
        # names of the library only: `recipes.read` would also take a path
        if name not in {entry.name for entry in recipes.library()}:
            raise NotFound(f"there is no recipe {name!r} in the library")
        return Recipe(name=name, recipe=recipes.read(name))

    @router.put("/api/recipes/{name}", dependencies=run)
    def save(name: RecipeName, body: RecipeText) -> Recipe:
        """Keep a recipe in your own library."""
        recipes.save(name, body.recipe, overwrite=body.overwrite)
        return Recipe(name=name, recipe=body.recipe)

    @router.post("/api/recipes/check", dependencies=read)
    def check(body: Check) -> Checked:
        """Every mistake of a recipe with its place; the plan in words when there is none."""
        found = recipes.check(body.recipe, body.sets)
        ok = not any(d.severity == "error" for d in found)
        words = recipes.explained(recipes.prepare(body.recipe, body.sets)) if ok else ()
        return Checked(ok=ok, diagnostics=list(found), explained=list(words))

    @router.get("/api/kinds", dependencies=read)
    def kinds() -> list[KindView]:
        """The kinds of steps this installation knows."""
        return list(recipes.kinds())

    @router.get("/api/kinds/{name}", dependencies=read)
    def keys(name: Name) -> list[Key]:
        """Every key of a kind."""
        return [Key(**plain(key)) for key in recipes.keys(name)]

    @router.get("/api/recipe-schema", dependencies=read)
    def schema() -> dict[str, Any]:
        """The JSON Schema of recipes, for editors."""
        value: dict[str, Any] = plain(recipes.schema())
        return value

    return router
