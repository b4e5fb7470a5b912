"""What a backend is, read from its folder, and how the folders are found."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound

#: Each entry names a package whose sub-folders with a ``backend.toml`` are backends.
ENTRY_POINT_GROUP = "modelops_tui.backends"

#: The program's own backends; they are found even where entry points are stale.
BUILT_IN = "recipes.backends"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class BackendSpec:
    """One backend, as its folder describes it."""

    name: str
    title: str
    folder: Path
    formats: tuple[str, ...]
    """Formats of the ``quantize`` kind it makes; none: it serves, and needs no ``worker.py``."""
    main: bool
    """It lives in the main environment: nothing is installed."""
    package: str
    """The distribution whose version is shown."""
    status: str
    """``supported``, ``unmaintained`` or ``experimental``."""
    note: str
    probe: str
    """An import that must work in a sound environment."""
    size_mb: int
    """Roughly what the environment takes on disk."""
    sdist: str = ""
    """``name==version`` of a source distribution whose parts the worker needs as files."""
    sdist_parts: tuple[str, ...] = ()
    """Paths inside it (a folder ends with ``/``) that are unpacked under ``sdist/``."""
    drop: tuple[str, ...] = ()
    """Packages uninstalled again: required by metadata, but harmful in this environment."""

    @property
    def lock(self) -> Path:
        return self.folder / "requirements.lock"

    @property
    def worker(self) -> Path:
        return self.folder / "worker.py"

    @property
    def lock_sha256(self) -> str:
        """Hash of the lock: the environment's key, and part of every result's lineage."""
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()


def load_spec(folder: Path) -> BackendSpec:
    """Read ``backend.toml``.

    Raises:
        BadInput: the file is damaged, or a part of the folder is missing.
    """
    file = folder / "backend.toml"
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        spec = BackendSpec(
            name=str(values["name"]),
            title=str(values["title"]),
            folder=folder,
            formats=tuple(values["formats"]),
            main=bool(values.get("main", False)),
            package=str(values["package"]),
            status=str(values.get("status", "supported")),
            note=str(values.get("note", "")),
            probe=str(values["probe"]),
            size_mb=int(values.get("size_mb", 0)),
            sdist=str(values.get("sdist", "")),
            sdist_parts=tuple(values.get("sdist_parts", ())),
            drop=tuple(values.get("drop", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} does not describe a backend", why=repr(error)) from error
    if not _NAME.fullmatch(spec.name):
        raise BadInput(f"{file}: {spec.name!r} is no name for a backend", why="a-z, 0-9 and -")
    missing = [p.name for p in (spec.worker, spec.lock) if not p.is_file()]
    if spec.main:
        missing = [name for name in missing if name != spec.lock.name]
    if not spec.formats:  # it only serves: started as a server, not spoken to over the wire
        missing = [name for name in missing if name != spec.worker.name]
    if missing:
        raise BadInput(f"the backend {spec.name} is incomplete", why=f"no {', '.join(missing)}")
    return spec


def wire_folder() -> Path:
    """The folder of ``protocol.py``, the workers' side of the wire."""
    spec = importlib.util.find_spec(BUILT_IN)
    places = (spec.submodule_search_locations or []) if spec is not None else []
    return next((Path(place) / "wire" for place in places), Path())


def _folders() -> Iterator[tuple[bool, Path]]:
    """Folders of backends, ours first, each with whether it is ours."""
    plugged = {p.value for p in metadata.entry_points(group=ENTRY_POINT_GROUP)} - {BUILT_IN}
    for name in (BUILT_IN, *sorted(plugged)):
        # found by name, not imported: a backend's code runs in its own process only
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            # the package above it can't be imported
            continue
        for place in (spec.submodule_search_locations or []) if spec is not None else []:
            for file in sorted(Path(place).glob("*/backend.toml")):
                yield name == BUILT_IN, file.parent


def discover() -> dict[str, BackendSpec]:
    """Every backend of this installation, by name; the first of a name wins.

    A damaged one of a plugin is left out (``modelops-tui plugin list`` names it).

    Raises:
        BadInput: one of our own is damaged.
    """
    found: dict[str, BackendSpec] = {}
    for own, folder in _folders():
        try:
            spec = load_spec(folder)
        except BadInput:
            if own:
                raise
            continue
        found.setdefault(spec.name, spec)
    return found


def find(name: str) -> BackendSpec:
    """The backend called ``name``.

    Raises:
        NotFound: there is none, with the nearest names.
    """
    specs = discover()
    if name not in specs:
        near = difflib.get_close_matches(name, specs, n=2)
        raise NotFound(
            f"there is no backend {name!r}",
            why=f"backends: {', '.join(sorted(specs))}",
            hint=f"did you mean {' or '.join(near)}?"
            if near
            else "see: modelops-tui backends list",
        )
    return specs[name]
