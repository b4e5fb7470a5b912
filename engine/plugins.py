"""Every extension point in one place: what can be plugged in, what is, and what is broken.

A plugin is a Python package with entry points. One that can't be loaded, is of another type or was
made for another version of the interface is named with its reason and left out, never fatal.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError, NotFound

#: What a plugin is written against; ``api_version`` of its objects must be this.
API_VERSION = 1


#: Quantization backends: packages that are found and never imported here.
BACKENDS = "modelops_tui.backends"


@dataclass(frozen=True)
class ExtensionPoint:
    """One kind of thing a plugin can bring."""

    name: str
    group: str
    """The entry-point group."""
    summary: str
    type_name: str
    """``module:Class`` an entry must be an instance of, ``callable``, or ``package``."""
    signature: str
    attributes: tuple[str, ...] = ()
    """What a function must carry, each a tuple that is not empty."""


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
        'read(path: Path) -> str; read.suffixes = (".ext", ...)',
        ("suffixes",),
    ),
    ExtensionPoint(
        "metric",
        "modelops_tui.metrics",
        "scores answers against references",
        "callable",
        "metric(answers: list[str], references: list[str]) -> float",
    ),
    ExtensionPoint(
        "judge",
        "modelops_tui.judges",
        "scores one answer, 0 to 1, in an evaluation",
        "callable",
        "judge(prompt: str, answer: str, reference: str) -> float",
    ),
    ExtensionPoint(
        "reward",
        "modelops_tui.rewards",
        "scores answers while training with GRPO",
        "callable",
        "reward(prompts: list[str], answers: list[str]) -> list[float]",
    ),
    ExtensionPoint(
        "exporter",
        "modelops_tui.exporters",
        "writes a model in another form",
        "callable",
        "export(model: Path, target: Path) -> None",
    ),
    ExtensionPoint(
        "backend",
        BACKENDS,
        "quantizes in an environment of its own",
        "package",
        "a package with a folder NAME holding backend.toml, worker.py and the lock",
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
        for title, loaded, reason in _loaded(entry, where):
            if not reason and title in objects and objects[title] is not loaded:
                reason = "another plugin already provides this name"
            if reason:
                broken.append(BrokenPlugin(title, where.name, package, reason))
            elif title not in objects:
                objects[title] = loaded
                plugins.append(Plugin(title, where.name, package, version, entry.value))
    return Extensions(where, tuple(plugins), tuple(broken), objects)


def names(name: str) -> tuple[str, ...]:
    """What is plugged in at a point, by name, without importing any of it."""
    return tuple(sorted(entry.name for entry in metadata.entry_points(group=point(name).group)))


def _loaded(entry: metadata.EntryPoint, where: ExtensionPoint) -> list[tuple[str, Any, str]]:
    """``(name, object, reason)`` of what an entry brings; a reason where it is left out."""
    if where.type_name == "package":
        return _backends(entry.value, entry.name)
    loaded, reason = _load(entry, where)
    return [(entry.name, loaded, reason)]


def _backends(package: str, name: str) -> list[tuple[str, Any, str]]:
    """The backends of a package; their code runs in processes of their own, never here."""
    from engine.backends.spec import load_spec

    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        return [(name, None, f"{type(error).__name__}: {error}")]
    places = (spec.submodule_search_locations or []) if spec is not None else []
    files = sorted(file for place in places for file in Path(place).glob("*/backend.toml"))
    if not files:
        return [(name, None, f"{package} has no folder with a backend.toml")]
    found: list[tuple[str, Any, str]] = []
    for file in files:
        try:
            backend = load_spec(file.parent)
            found.append((backend.name, backend, ""))
        except ModelOpsError as error:
            found.append((file.parent.name, None, str(error)))
    return found


def _load(entry: metadata.EntryPoint, where: ExtensionPoint) -> tuple[Any, str]:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin may raise anything; it is named
        return None, f"{type(error).__name__}: {error}"
    if where.type_name == "callable":
        if not callable(loaded):
            return None, f"{entry.value} is not a function"
        for attribute in where.attributes:
            if not (isinstance(held := getattr(loaded, attribute, None), tuple) and held):
                return None, f"{entry.value} has no {attribute}: {where.signature}"
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
