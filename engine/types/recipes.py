"""Recipes as screens and CLI see them: mistakes with their place, library, estimates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from engine.types.system import Estimate, EstimateContext

__all__ = ["Diagnostic", "Estimate", "EstimateContext", "ImportedRecipe", "LibraryEntry"]


@dataclass(frozen=True)
class Diagnostic:
    """One mistake in a recipe and where it stands."""

    path: str
    """The file, ``--set`` for an override, ``<recipe>`` for text without a file."""
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    what: str
    advice: str = ""
    source_line: str = ""
    length: int = 1
    """How many characters the caret underlines."""
    key: str = ""
    """The dotted key it is about, such as ``steps.train.lr``."""
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class LibraryEntry:
    """A recipe of the library: shipped, from a plugin, or the user's own."""

    name: str
    path: str
    kind: str
    summary: str
    origin: Literal["shipped", "plugin", "own"]
    problem: str = ""
    """Why it can't be read, where it can't."""


@dataclass(frozen=True)
class UntranslatedKey:
    """A key of a foreign recipe that has no place in ours, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class ImportedRecipe:
    """A foreign training recipe in our grammar."""

    source: str
    dialect: str
    text: str
    """The TOML of the recipe."""
    untranslated: tuple[UntranslatedKey, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided on the way: values coerced, defaults that differ."""
    diagnostics: tuple[Diagnostic, ...] = field(default_factory=tuple)
    """What must be filled in before it runs here (a model or data that is not on this machine)."""
