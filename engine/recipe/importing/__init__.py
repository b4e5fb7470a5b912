"""``recipe import``: training recipes of other programs, translated into ours.

Axolotl, LLaMA-Factory, TRL, torchtune and Unsloth are read from their YAML. Every key ends up
either in our recipe or in the list of keys that were not translated, with the reason: nothing is
guessed in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from engine.types.recipes import ImportedRecipe


def import_file(path: Path, paths: StatePaths, *, dialect: str | None = None) -> ImportedRecipe:
    """Translate a foreign recipe.

    Args:
        path: a YAML file.
        paths: the state directory that the result is checked against.
        dialect: the program it is written for, where looking at its keys does not tell.

    Raises:
        NotFound: no such file.
        BadInput: it is no YAML mapping, or of none of the known programs.
    """
    from engine.recipe.importing.translate import translate_file

    return translate_file(path, paths, dialect)
