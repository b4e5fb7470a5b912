"""The files of a new plugin: a kind, a metric, and tests of both that pass as they are."""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import BadInput, Conflict
from engine.plugins import API_VERSION

_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
description = "A plugin of ModelOps TUI."
requires-python = ">=3.11"
dependencies = ["modelops-tui"]

[project.optional-dependencies]
test = ["pytest>=8"]

# every name on the left is what recipes and commands use
[project.entry-points."modelops_tui.kinds"]
{kind} = "{module}:KIND"

[project.entry-points."modelops_tui.metrics"]
{kind}-exact = "{module}.metric:exact"

[tool.setuptools.packages.find]
include = ["{module}*"]
"""

_PACKAGE = '''"""A kind of step: its keys, and the name of the function that does the work."""

from __future__ import annotations

from engine.kinds import Kind
from engine.recipe.spec import StepSpec


class Spec(StepSpec):
    """Keys of a `{kind}` step."""

    text: str
    """What to count the words of."""


KIND = Kind(
    name="{kind}",
    summary="count the words of a text",
    model=Spec,
    run="{module}.run:run",
    outputs={{"words": "number"}},
    lane="cpu",
    api_version={api},
)
'''

_RUN = '''"""What the step does. Heavy libraries are imported in here, in the worker."""

from __future__ import annotations

from typing import Any

from engine.worker.context import StepContext, StepResult


def run(ctx: StepContext) -> StepResult:
    """Count the words."""
    spec: Any = ctx.params
    return StepResult({{"words": float(count(spec.text))}})


def count(text: str) -> int:
    """Words of a text."""
    return len(text.split())
'''

_METRIC = '''"""A metric: scores answers against references."""

from __future__ import annotations


def exact(answers: list[str], references: list[str]) -> float:
    """Share of answers that are their reference, apart from space around them."""
    pairs = list(zip(answers, references, strict=True))
    return sum(a.strip() == r.strip() for a, r in pairs) / max(1, len(pairs))
'''

_TEST = '''"""The plugin as ModelOps TUI sees it."""

from __future__ import annotations

from engine.plugins import extensions
from engine.recipe import prepare
from {module}.metric import exact
from {module}.run import count


def test_it_is_found() -> None:
    assert "{kind}" in extensions("kind").objects
    assert "{kind}-exact" in extensions("metric").objects


def test_a_recipe_of_it_is_accepted() -> None:
    plan = prepare('recipe = 1\\nname = "x"\\nkind = "{kind}"\\ntext = "a b c"\\n')
    assert plan.steps[0].params["text"] == "a b c"


def test_what_it_does() -> None:
    assert count("a b  c") == 3
    assert exact(["yes ", "no"], ["yes", "maybe"]) == 0.5
'''


def write_template(name: str, folder: Path) -> Path:
    """Write a new plugin package; returns its folder.

    Raises:
        BadInput: ``name`` can't be a package's.
        Conflict: the folder holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        raise BadInput(
            f"{name!r} can't be the name of a plugin",
            hint="lower-case words joined by '-', such as my-metrics",
        )
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", hint="choose another --folder")
    module = name.replace("-", "_")
    values = {"name": name, "module": module, "kind": name, "api": API_VERSION}
    files = {
        "pyproject.toml": _PROJECT,
        f"{module}/__init__.py": _PACKAGE,
        f"{module}/run.py": _RUN,
        f"{module}/metric.py": _METRIC,
        f"tests/test_{module}.py": _TEST,
    }
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.format(**values), encoding="utf-8")
    return folder
