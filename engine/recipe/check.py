"""What a kind's ``check`` function is given and what it returns. No heavy imports, ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.paths import StatePaths


@dataclass(frozen=True)
class Problem:
    """One mistake a kind's check found, by key path; the grammar adds file, line and column.

    ``path`` is relative to the step: ``("trainer", "lerning_rate")``; list items by index. An empty
    path means the step as a whole. A ``warning`` is shown and does not stop the recipe.
    """

    path: tuple[str | int, ...]
    what: str
    """One sentence, what is wrong: ``"lerning_rate" is not an argument of the trainer``."""
    advice: str = ""
    """What to do: the nearest allowed name, the allowed values, the command that helps."""
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class CheckContext:
    """What a check may look at besides its own step."""

    paths: StatePaths
    recipe_dir: Path
    """Relative paths of the recipe start here (they are absolute already in the spec)."""
    step_name: str
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Outputs of every other step of the plan: step -> output -> artifact, number or text."""

    @staticmethod
    def is_reference(value: Any) -> bool:
        """True for ``${...}``: the value is known only when the step runs, so don't look it up."""
        return isinstance(value, str) and "${" in value
