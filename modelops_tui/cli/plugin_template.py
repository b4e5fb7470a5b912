"""Writes a new plugin package: the parts that were asked for, with tests that pass as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from engine.errors import BadInput, Conflict
from engine.plugins import API_VERSION
from modelops_tui.cli import plugin_parts, plugin_processes

#: What a plugin may hold, by name.
PARTS = {
    **plugin_parts.PARTS,
    "serving": plugin_processes.SERVING,
    "backend": plugin_processes.BACKEND,
}
#: What a plugin holds unless something else is asked for.
DEFAULT = ("kind", "metric")
_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "A plugin of ModelOps TUI."
requires-python = ">=3.11"
dependencies = ["modelops-tui"]

[project.optional-dependencies]
test = ["pytest>=8"]

# every name on the left is what recipes and commands use
$entries
[tool.setuptools.packages.find]
include = ["$module*"]

[tool.setuptools.package-data]
"*" = ["*.toml", "*.lock"]
"""


def write_template(name: str, folder: Path, parts: Sequence[str] = DEFAULT) -> Path:
    """Write a new plugin package; returns its folder.

    Args:
        name: of the distribution.
        folder: where; empty or not there yet.
        parts: names of :data:`PARTS`.

    Raises:
        BadInput: ``name`` can't be a package's, or an unknown part.
        Conflict: the folder holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 30:
        raise BadInput(
            f"{name!r} can't be the name of a plugin",
            hint="lower-case words joined by '-', such as my-metrics; at most 30 characters",
        )
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise BadInput(
            f"no such part: {', '.join(unknown) or 'none was named'}",
            hint=f"parts: {', '.join(PARTS)}, all",
        )
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", hint="choose another --folder")
    module = name.replace("-", "_")
    chosen = [PARTS[part] for part in dict.fromkeys(parts)]
    entries = "\n".join(f'[project.entry-points."{part.group}"]\n{part.entry}\n' for part in chosen)
    files = {"$module/__init__.py": f'"""{name}: a plugin of ModelOps TUI."""\n'}
    for part in chosen:
        files.update(part.files)
    files["pyproject.toml"] = Template(_PROJECT).safe_substitute(entries=entries)
    values = {"name": name, "module": module, "api": API_VERSION}
    for path, text in files.items():
        target = folder / Template(path).substitute(values)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(values), encoding="utf-8")
    return folder
