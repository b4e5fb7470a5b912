"""What a plan is frozen on: absolute paths, exact versions, and hashes of its inputs."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from engine.errors import BadInput, ModelOpsError
from engine.paths import StatePaths
from engine.recipe.diagnostics import Collector
from engine.recipe.overrides import put
from engine.recipe.positions import KeyPath
from engine.recipe.schema_view import SchemaView

#: Files up to this size are hashed whole (0.1 s); larger ones by size, time and both ends.
WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20
_REF = re.compile(r"[A-Za-z0-9][\w.-]*@[\w.-]+")


def absolute_paths(body: dict[str, Any], view: SchemaView, folder: Path) -> None:
    """Make relative paths in model, data and path keys absolute against the recipe's folder."""
    from engine.data.source import BUNDLED
    from engine.models import packaged_model

    for path, text, kind in list(view.references(body)):
        if "${" in text or not text:
            continue
        try:
            written = Path(text).expanduser()
            there = (folder / written).exists()
        except (OSError, RuntimeError):
            # a name no file can have, or the home of nobody: the check of the key says so
            continue
        named = text.startswith(("./", "../", "~")) or text in (".", "..")
        known = text in BUNDLED if kind == "data" else packaged_model(text) is not None
        if kind == "path" or named or (not known and there):
            put_at(body, path, os.path.normpath(folder / written))


def put_at(body: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set the value at a path that exists."""
    put(body, tuple(str(part) for part in path), value)


def freeze_inputs(
    body: dict[str, Any],
    view: SchemaView,
    where: KeyPath,
    paths: StatePaths,
    collector: Collector,
) -> dict[str, str]:
    """Replace moving references by exact ones and note what every input is now.

    ``tickets@latest`` becomes ``tickets@v3``, ``support-bot@prod`` the manifest it stands for.

    Returns:
        Reference (as it now stands in the body) -> manifest id, or a hash of the files.
    """
    versions: dict[str, str] = {}
    for path, text, kind in list(view.references(body)):
        if "${" in text or kind == "path":
            continue
        try:
            exact, version = _frozen(text, kind, paths)
        except ModelOpsError as error:
            if not collector.has_error_at((*where, *path)):
                advice = ". ".join(part for part in (error.why, error.hint) if part)
                collector.add((*where, *path), error.what, advice)
            continue
        if exact != text:
            put_at(body, path, exact)
        versions[exact] = version
    return versions


def _frozen(text: str, kind: str, paths: StatePaths) -> tuple[str, str]:
    if kind == "data":
        return _frozen_data(text, paths)
    return _frozen_model(text, paths)


def _frozen_data(text: str, paths: StatePaths) -> tuple[str, str]:
    from engine.data.source import BUNDLED, resolve_data

    if text not in BUNDLED and _REF.fullmatch(text) and not os.path.exists(text):
        # the version only: its rows are materialized and verified by the worker
        from engine.data.versions import open_dataset

        name, _, selector = text.rpartition("@")
        version = open_dataset(name, paths).resolve(selector)
        return f"{name}@v{version}", f"v{version}"
    return text, fingerprint(resolve_data(text, paths).path)


def _frozen_model(text: str, paths: StatePaths) -> tuple[str, str]:
    from engine.models import packaged_model, packaged_path, resolve_model

    packaged = packaged_model(text)
    if packaged is not None:
        return text, fingerprint(packaged_path(packaged))
    if not os.path.exists(text) and (_REF.fullmatch(text) or text.startswith("sha256:")):
        # the manifest only: bytes are verified by the worker, before they are loaded
        from engine.registry import Registry

        manifest = str(Registry.open(paths).resolve(text).manifest)
        return manifest, manifest
    location = resolve_model(text, paths)
    if location.manifest is not None:
        return location.manifest, location.manifest
    return text, fingerprint(location.path)


def fingerprint(path: Path) -> str:
    """Changes when the file or folder changes: a hash of the bytes, or of names, sizes and times.

    Raises:
        BadInput: it can't be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                info = file.stat()
                line = f"{file.relative_to(path)}\0{info.st_size}\0{info.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
            return f"files:{digest.hexdigest()[:32]}"
        info = path.stat()
        with open(path, "rb") as file_object:
            if info.st_size <= WHOLE_BYTES:
                return f"file:{hashlib.file_digest(file_object, 'sha256').hexdigest()[:32]}"
            digest.update(f"{info.st_size}\0{info.st_mtime_ns}\0".encode())
            digest.update(file_object.read(_END_BYTES))
            file_object.seek(-_END_BYTES, os.SEEK_END)
            digest.update(file_object.read(_END_BYTES))
    except OSError as error:
        raise BadInput(f"{path} can't be read", why=error.strerror or str(error)) from error
    return f"large:{digest.hexdigest()[:32]}"
