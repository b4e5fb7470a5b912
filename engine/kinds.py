"""What a recipe kind is, and how kinds are found: plugins by entry point, the built-in ones too.

A kind's package is imported for its schema only; its run function is named as text and imported in
the worker process, so that checking a recipe never imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NotFound

if TYPE_CHECKING:
    from engine.recipe.spec import StepSpec

ENTRY_POINT_GROUP = "modelops_tui.kinds"

#: What a plugin is written against; a plugin of another major version is left out, by name.
API_VERSION = 1


@dataclass(frozen=True, eq=False)
class Kind:
    """A step kind: its schema and the names of the functions that do the work.

    ``run`` is ``"module:function"``, called as ``run(ctx: StepContext) -> StepResult`` in the
    worker. ``check`` is ``"module:function"``, called as ``check(spec, CheckContext) ->
    list[Problem]`` before submit: files exist, models resolve, settings agree. It must not import
    torch and must be quick.
    ``estimate`` is ``"module:function"``, called as ``estimate(spec, context) -> Estimate``.
    ``actions`` are named functions a service process offers to the CLI and the screens
    (see ``engine.service``), each ``"module:function"``.
    ``outputs`` names what a step of this kind returns: ``"artifact"``, ``"number"`` or ``"text"``.
    """

    name: str
    summary: str
    model: type[StepSpec]
    run: str
    outputs: Mapping[str, str]
    lane: str = "auto"
    """``auto`` (a GPU when there is one), ``gpu`` or ``cpu``."""
    check: str | None = None
    estimate: str | None = None
    actions: Mapping[str, str] = field(default_factory=dict)
    resumable: bool = False
    shares: bool = False
    """Long-lived (a server): holds a declared share of a device's memory, not its lane's turn."""
    code: tuple[str, ...] = ()
    """Extra modules (beside the kind's own package) whose source is part of the memo key."""
    api_version: int = API_VERSION


@dataclass(frozen=True)
class BrokenKind:
    """A plugin that could not be loaded: named, explained, left out."""

    name: str
    plugin: str
    reason: str


@dataclass(frozen=True)
class KindRegistry:
    """The kinds of this installation, by name, and those that were left out."""

    kinds: Mapping[str, Kind]
    broken: tuple[BrokenKind, ...] = ()

    def get(self, name: str) -> Kind:
        """The kind called ``name``.

        Raises:
            NotFound: no such kind; the reason names a broken plugin where that is the cause.
        """
        if name in self.kinds:
            return self.kinds[name]
        for broken in self.broken:
            if broken.name == name:
                raise NotFound(
                    f"kind {name!r} could not be loaded", why=f"{broken.plugin}: {broken.reason}"
                )
        raise NotFound(
            f"there is no kind {name!r}", why=f"known kinds: {', '.join(sorted(self.kinds))}"
        )


@cache
def load_kinds() -> KindRegistry:
    """Find every kind by its entry point. A broken plugin is recorded, never fatal."""
    kinds: dict[str, Kind] = {}
    broken: list[BrokenKind] = []
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        plugin = point.dist.name if point.dist is not None else point.value
        try:
            kind = point.load()
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; it is named and left out
            broken.append(BrokenKind(point.name, plugin, f"{type(error).__name__}: {error}"))
            continue
        if not isinstance(kind, Kind):
            broken.append(
                BrokenKind(point.name, plugin, f"{point.value} is not an engine.kinds.Kind")
            )
        elif kind.api_version != API_VERSION:
            broken.append(
                BrokenKind(
                    point.name,
                    plugin,
                    f"made for plugin API {kind.api_version}, this is {API_VERSION}",
                )
            )
        elif kind.name in kinds and kinds[kind.name] is not kind:
            broken.append(
                BrokenKind(kind.name, plugin, "another plugin already provides this kind")
            )
        else:
            kinds[kind.name] = kind
    return KindRegistry(kinds, tuple(broken))


def load_kind(name: str) -> Kind:
    """One kind, without loading the others: a worker needs one, and their models take 0.15 s.

    Raises:
        NotFound: no such kind; the reason names a broken plugin where that is the cause.
    """
    found = metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)
    if len(found) == 1 and not load_kinds.cache_info().currsize:
        # what is broken, doubled or named otherwise is told by the whole registry
        with suppress(Exception):
            kind = next(iter(found)).load()
            if isinstance(kind, Kind) and (kind.name, kind.api_version) == (name, API_VERSION):
                return kind
    return load_kinds().get(name)


def load_function(reference: str) -> Any:
    """Import ``"module:function"``. Called only where the function is about to run."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def code_version(kind: Kind) -> str:
    """A hash over the sources of the kind's package and of its ``code`` modules (16 hex digits).

    It is part of the memo key: a step is computed again when the code that computes it changed.
    """
    digest = hashlib.sha256()
    package = kind.run.partition(":")[0].rpartition(".")[0] or kind.run.partition(":")[0]
    for module in sorted({package, *kind.code}):
        spec = importlib.util.find_spec(module)
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or [])
        files = (
            [f for place in places for f in Path(place).rglob("*.py")]
            if places
            else [Path(spec.origin or "")]
        )
        for file in sorted(f for f in files if f.is_file()):
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
