"""Recipes from outside the engine: check, explain, find, write. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError, RecipeInvalid
from engine.paths import StatePaths
from engine.types.recipes import Diagnostic, Estimate, ImportedRecipe, LibraryEntry

if TYPE_CHECKING:
    from engine.recipe.plan import Plan


@dataclass(frozen=True)
class KeyView:
    """One key of a kind, for forms and for ``recipe explain``."""

    key: str
    """Dotted: ``train.lr``."""
    expected: str
    """What may stand there, in words."""
    description: str
    required: bool
    default: Any
    choices: tuple[str, ...]


@dataclass(frozen=True)
class KindView:
    """One kind of this installation."""

    name: str
    summary: str
    outputs: dict[str, str]
    resumable: bool


class Recipes:
    """The recipes that one state directory sees."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    # -- check ------------------------------------------------------------------------------------

    def prepare(
        self, source: Path | str, sets: Sequence[str] = (), *, source_path: Path | None = None
    ) -> Plan:
        """Resolve and check a recipe; ``jobs.submit`` takes the plan.

        Args:
            source: a file, or (as ``str``) TOML text.
            sets: overrides such as ``train.lr=1e-4``.
            source_path: names the text in errors and is where its relative paths start.

        Raises:
            RecipeInvalid: with every mistake.
        """
        from engine.recipe import prepare

        return prepare(source, sets, self._paths, source_path=source_path)

    def check(
        self, source: Path | str, sets: Sequence[str] = (), *, source_path: Path | None = None
    ) -> tuple[Diagnostic, ...]:
        """Every mistake and warning, sorted by place; nothing when all is well. Never raises."""
        try:
            return self.prepare(source, sets, source_path=source_path).warnings
        except RecipeInvalid as error:
            return tuple(d for d in error.diagnostics if isinstance(d, Diagnostic))
        except ModelOpsError as error:
            label = str(source_path or (source if isinstance(source, Path) else "<recipe>"))
            advice = ". ".join(part for part in (error.why, error.hint) if part)
            return (Diagnostic(label, 1, 1, error.what, advice),)

    def estimate(self, plan: Plan) -> dict[str, Estimate | None]:
        """What each step needs, where it can be told before earlier steps have run."""
        from engine.devices.estimate import estimate_step
        from engine.kinds import load_kinds

        kinds = load_kinds()
        found: dict[str, Estimate | None] = {}
        for step in plan.steps:
            known = "${" not in str(step.params)
            kind = kinds.get(step.kind)
            found[step.name] = estimate_step(kind, step.params, self._paths) if known else None
        return found

    def explained(self, plan: Plan) -> tuple[str, ...]:
        """The plan in words, step by step."""
        from engine.recipe.explaining import explain

        return tuple(explain(plan))

    def plan_text(self, plan: Plan) -> str:
        """The resolved recipe as TOML, every key included."""
        from engine.recipe.explaining import plan_text

        return plan_text(plan)

    # -- kinds ------------------------------------------------------------------------------------

    def kinds(self) -> tuple[KindView, ...]:
        """The kinds of this installation."""
        from engine.kinds import load_kinds

        return tuple(
            KindView(kind.name, kind.summary, dict(kind.outputs), kind.resumable)
            for _, kind in sorted(load_kinds().kinds.items())
        )

    def keys(self, kind: str) -> tuple[KeyView, ...]:
        """Every key of a kind, in the order of its schema.

        Raises:
            NotFound: there is no such kind.
        """
        from engine.kinds import load_kinds
        from engine.recipe.schema_view import schema_view

        return tuple(
            KeyView(f.dotted, f.expected, f.description, f.required, f.default, f.choices)
            for f in schema_view(load_kinds().get(kind).model).fields()
            if f.path != ("kind",)
        )

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (draft-07) for editors."""
        from engine.recipe.schema_export import json_schema

        return json_schema()

    # -- library ----------------------------------------------------------------------------------

    def library(self, kind: str = "", text: str = "") -> tuple[LibraryEntry, ...]:
        """Recipes that are shipped, come with plugins, or are the user's own; by name.

        Args:
            kind: only of this kind.
            text: only those whose name or summary contains it.
        """
        from engine.recipe.library import entries

        wanted = text.lower()
        return tuple(
            entry
            for entry in entries(self._paths)
            if (not kind or entry.kind == kind)
            and (not wanted or wanted in f"{entry.name} {entry.summary}".lower())
        )

    def find(self, name: str) -> Path:
        """The file of a recipe: a path, or a name of the library.

        Raises:
            NotFound: neither, with the nearest name.
        """
        from engine.recipe.library import find

        return find(name, self._paths)

    def read(self, name: str) -> str:
        """The text of a recipe.

        Raises:
            NotFound: no such recipe.
        """
        from engine.recipe.reading import read_source

        return read_source(self.find(name)).text

    def save(self, name: str, text: str, *, overwrite: bool = False) -> Path:
        """Write a recipe into the user's own library.

        Raises:
            Conflict: there is one of that name.
        """
        from engine.recipe.library import save

        return save(name, text, self._paths, overwrite=overwrite)

    def copy(self, name: str, target: Path, *, overwrite: bool = False) -> Path:
        """Copy a recipe to a file (or into a folder) to own it.

        Raises:
            Conflict: the target exists.
        """
        from engine.recipe.library import write_new

        source = self.find(name)
        if target.is_dir():
            target = target / source.name
        write_new(target, self.read(name), overwrite=overwrite)
        return target

    def new(self, kind: str, name: str = "") -> str:
        """The text of a new recipe with every key of its kind, described.

        Raises:
            NotFound: there is no such kind.
        """
        from engine.kinds import load_kinds
        from engine.recipe.templates import PIPELINE, new_recipe

        if kind == "pipeline":
            return PIPELINE.format(name=name or "my-pipeline")
        return new_recipe(load_kinds().get(kind), name or f"my-{kind}")

    def import_file(self, path: Path, *, dialect: str | None = None) -> ImportedRecipe:
        """Translate a recipe of Axolotl, LLaMA-Factory, TRL, torchtune or Unsloth.

        Raises:
            NotFound: no such file.
            BadInput: it is no YAML, or of none of these programs.
        """
        from engine.recipe.importing import import_file

        return import_file(path, self._paths, dialect=dialect)

    def resolved(self, plan: Plan) -> dict[str, Any]:
        """The plan as JSON values, for ``--dry-run`` and screens (without the source text)."""
        value = asdict(plan)
        value.pop("source_text")
        return value
