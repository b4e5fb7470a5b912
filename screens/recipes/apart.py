"""Recipes checked where what they read can't stay: those over datasets of one's own in a process.

Checking such a recipe imports Delta Lake and Arrow, 100 MB that a process keeps to its end. All
others are checked here, in a few milliseconds. ``python -m screens.recipes.apart`` is that process.
"""

from __future__ import annotations

import base64
import json
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError

if TYPE_CHECKING:
    from engine.api import Workbench
    from engine.recipe.plan import Plan
    from engine.types.recipes import Estimate

_DATASET = re.compile(r"([a-z0-9][a-z0-9._-]*)@")


def needs_datasets(text: str, datasets: Path) -> bool:
    """Whether a text may refer to a version of a dataset that is there."""
    return any((datasets / name).is_dir() for name in set(_DATASET.findall(text)))


def planned(
    workbench: Workbench,
    source: Path | str,
    sets: Sequence[str] = (),
    source_path: Path | None = None,
    *,
    estimated: bool = True,
) -> tuple[Plan, dict[str, Estimate | None]]:
    """The plan and what its steps need (called in a thread).

    Args:
        workbench: whose state directory it is checked against.
        source: a file, or (as ``str``) TOML text.
        sets: overrides such as ``train.lr=1e-4``.
        source_path: names the text in errors and is where its relative paths start.
        estimated: tell what the steps need too; else the second value is empty.

    Raises:
        RecipeInvalid: with every mistake.
    """
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    except (OSError, UnicodeDecodeError):
        text = ""  # prepare says what is wrong with the file
    if not needs_datasets("\n".join((text, *sets)), workbench.paths.datasets):
        plan = workbench.recipes.prepare(source, sets, source_path=source_path)
        return plan, workbench.recipes.estimate(plan) if estimated else {}

    from screens.child import Child
    from screens.progress import Task

    asked = base64.b64encode(pickle.dumps((source, tuple(sets), source_path, estimated))).decode(
        "ascii"
    )
    child = Child([asked], [], workbench.paths, Task("Check"), module="screens.recipes.apart")
    found = pickle.loads(base64.b64decode(child.run()))  # noqa: S301  our own process wrote it
    if isinstance(found, ModelOpsError):
        raise found
    plan, estimates = found
    return plan, estimates


def answer(asked: str) -> Any:
    """The plan with its estimates, or the error, as ``planned`` sends and takes them."""
    from engine.api import Workbench

    recipes = Workbench().recipes
    source, sets, source_path, estimated = pickle.loads(base64.b64decode(asked))  # noqa: S301  our parent's
    try:
        plan = recipes.prepare(source, sets, source_path=source_path)
        return plan, recipes.estimate(plan) if estimated else {}
    except ModelOpsError as error:
        return error


if __name__ == "__main__":
    found = pickle.dumps(answer(sys.argv[1]))
    sys.stdout.write(json.dumps(base64.b64encode(found).decode("ascii")) + "\n")
