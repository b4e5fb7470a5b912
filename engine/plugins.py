"""Every extension point in one place: what can be plugged in, what is, and what is broken.

A plugin is a Python package with entry points. One that can't be loaded, is of another type or was
made for another version of the interface is named with its reason and left out, never fatal.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from engine.errors import NotFound

#: What a plugin is written against; ``api_version`` of its objects must be this.
API_VERSION = 1


@dataclass(frozen=True)
class ExtensionPoint:
    """One kind of thing a plugin can bring."""

    name: str
    group: str
    """The entry-point group."""
    summary: str
    type_name: str
    """``module:Class`` an entry must be an instance of, or ``callable``."""
    signature: str


POINTS: tuple[ExtensionPoint, ...] = (
    ExtensionPoint(
        "kind", "modelops_tui.kinds", "a step of a recipe", "engine.kinds:Kind", "KIND = Kind(...)"
    ),
    ExtensionPoint(
        "serving backend",
        "modelops_tui.serving",
        "a program that serves models",
        "engine.serving.launch:ServingBackend",
        "BACKEND = ServingBackend(...)",
    ),
    ExtensionPoint(
        "reader",
        "modelops_tui.readers",
        "reads documents of a file type for retrieval",
        "callable",
        "read(path: Path) -> str; attribute suffixes: tuple[str, ...]",
    ),
    ExtensionPoint(
        "metric",
        "modelops_tui.metrics",
        "scores answers against references",
        "callable",
        "metric(answers: list[str], references: list[str]) -> float",
    ),
    ExtensionPoint(
        "reward",
        "modelops_tui.rewards",
        "scores completions while training with GRPO",
        "callable",
        "reward(prompts: list[str], completions: list[str], **columns) -> list[float]",
    ),
    ExtensionPoint(
        "exporter",
        "modelops_tui.exporters",
        "writes a model in another form",
        "callable",
        "export(model: Path, target: Path) -> None",
    ),
)


@dataclass(frozen=True)
class Plugin:
    """One thing a plugin brings."""

    name: str
    point: str
    package: str
    version: str
    value: str
    """Where it is: ``module:name``."""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, and why."""

    name: str
    point: str
    package: str
    reason: str


@dataclass(frozen=True)
class Extensions:
    """What one extension point holds in this installation."""

    point: ExtensionPoint
    plugins: tuple[Plugin, ...]
    broken: tuple[BrokenPlugin, ...]
    objects: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            NotFound: none; the reason names a broken plugin where that is the cause.
        """
        if name in self.objects:
            return self.objects[name]
        for broken in self.broken:
            if broken.name == name:
                raise NotFound(
                    f"the {self.point.name} {name!r} could not be loaded",
                    why=f"{broken.package}: {broken.reason}",
                    hint="`modelops-tui plugin list` shows every plugin and its state",
                )
        raise NotFound(
            f"there is no {self.point.name} {name!r}",
            why=f"there are: {', '.join(sorted(self.objects)) or 'none'}",
        )


def point(name: str) -> ExtensionPoint:
    """The extension point of that name.

    Raises:
        NotFound: no such point.
    """
    for candidate in POINTS:
        if name in (candidate.name, candidate.group):
            return candidate
    raise NotFound(
        f"there is no extension point {name!r}",
        why=f"there are: {', '.join(candidate.name for candidate in POINTS)}",
    )


@cache
def extensions(name: str) -> Extensions:
    """Load everything of one extension point."""
    where = point(name)
    plugins: list[Plugin] = []
    broken: list[BrokenPlugin] = []
    objects: dict[str, Any] = {}
    for entry in metadata.entry_points(group=where.group):
        package = entry.dist.name if entry.dist is not None else entry.value
        version = entry.dist.version if entry.dist is not None else ""
        loaded, reason = _load(entry, where)
        if not reason and entry.name in objects and objects[entry.name] is not loaded:
            reason = "another plugin already provides this name"
        if reason:
            broken.append(BrokenPlugin(entry.name, where.name, package, reason))
        elif entry.name not in objects:
            objects[entry.name] = loaded
            plugins.append(Plugin(entry.name, where.name, package, version, entry.value))
    return Extensions(where, tuple(plugins), tuple(broken), objects)


def _load(entry: metadata.EntryPoint, where: ExtensionPoint) -> tuple[Any, str]:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin may raise anything; it is named
        return None, f"{type(error).__name__}: {error}"
    if where.type_name == "callable":
        if not callable(loaded):
            return None, f"{entry.value} is not a function"
    else:
        module, _, attribute = where.type_name.partition(":")
        if not isinstance(loaded, getattr(importlib.import_module(module), attribute)):
            return None, f"{entry.value} is not a {where.type_name.replace(':', '.')}"
    made_for = getattr(loaded, "api_version", API_VERSION)
    if made_for != API_VERSION:
        return None, f"made for plugin API {made_for}, this is {API_VERSION}"
    return loaded, ""


def overview() -> tuple[Extensions, ...]:
    """Every extension point with what it holds."""
    return tuple(extensions(where.name) for where in POINTS)
