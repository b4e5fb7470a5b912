"""The recipe grammar: TOML in, a frozen plan out, or every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from engine.recipe.plan import Plan


def prepare(
    source: Path | str,
    sets: Sequence[str] = (),
    paths: StatePaths | None = None,
    *,
    source_path: Path | None = None,
) -> Plan:
    """Parse, resolve, check and freeze a recipe.

    Args:
        source: a file, or (as ``str``) the TOML text itself.
        sets: overrides such as ``train.lr=1e-4``.
        paths: the state directory that model and data references are looked up in.
        source_path: where the text comes from: names it in errors, and is where its relative paths
            start (without it: the current folder).

    Returns:
        The plan, with its warnings.

    Raises:
        RecipeInvalid: with every mistake, sorted by position.
        NotFound: the file does not exist.
    """
    # pydantic takes 60 ms: the engine imports this package without it
    from engine.recipe.compiling import prepare_plan

    return prepare_plan(source, sets, paths, source_path)
