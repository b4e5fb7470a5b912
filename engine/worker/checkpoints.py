"""Complete checkpoints: a marker, written last, says that all of a folder is there and whose it is.

``transformers.trainer_utils.get_last_checkpoint`` returns whatever has the highest number, also a
folder that a kill left half-written; resuming from one loses the run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import IntegrityError
from engine.supervise.durable import read_json, sync_folder, write_json_durably

MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and its number (usually the optimizer step)."""

    path: Path
    number: int


def mark_complete(folder: Path, config_hash: str) -> None:
    """Fsync every file of ``folder`` and write its marker as the last act.

    Args:
        folder: a ``checkpoint-<n>`` folder with all of its files written.
        config_hash: says which configuration may resume from it.
    """
    files = {}
    for file in _files(folder):
        size, digest = _digest(file, sync=True)
        files[str(file.relative_to(folder))] = {"size": size, "sha256": digest}
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync_folder(place)
    write_json_durably(
        folder / MARKER, {"config_hash": config_hash, "files": files, "t": time.time()}
    )
    sync_folder(folder.parent)


def verify(folder: Path, config_hash: str | None = None) -> None:
    """Check a folder against its marker, byte by byte.

    Raises:
        IntegrityError: no marker, another configuration, or a file that is not what was marked.
    """
    problem = _problem(folder, config_hash, deep=True)
    if problem:
        raise IntegrityError(f"the checkpoint {folder.name} can't be used", why=problem)


def latest_complete(folder: Path, config_hash: str | None = None) -> Checkpoint | None:
    """The highest-numbered checkpoint in ``folder`` that is whole, or None.

    Every file is read and compared: a checkpoint on a disk that lost its last writes is passed over
    for the one before.

    Args:
        folder: the step's ``checkpoints`` folder (may be missing).
        config_hash: only checkpoints of this configuration (None: any).
    """
    for checkpoint in reversed(_all(folder)):
        if _problem(checkpoint.path, config_hash, deep=True) is None:
            return checkpoint
    return None


def has_complete(folder: Path) -> int:
    """The highest number of a marked checkpoint, -1 when there is none (cheap: sizes only)."""
    for checkpoint in reversed(_all(folder)):
        if _problem(checkpoint.path, None, deep=False) is None:
            return checkpoint.number
    return -1


def prune(folder: Path, keep: int = 2, config_hash: str | None = None) -> list[Path]:
    """Remove old and half-written checkpoints; the newest ``keep`` complete ones stay.

    A marker is removed before its files, so that a kill in between never leaves a marked folder
    with files missing.

    Returns:
        The folders removed.
    """
    checkpoints = _all(folder)
    whole = [c for c in checkpoints if _problem(c.path, config_hash, deep=False) is None]
    kept = {c.path for c in whole[-keep:]} if keep > 0 else set()
    newest = whole[-1].number if whole else -1
    removed = []
    for checkpoint in checkpoints:
        # an unmarked folder with a higher number is being written right now
        if checkpoint.path in kept or checkpoint.number > newest:
            continue
        (checkpoint.path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(checkpoint.path, ignore_errors=True)
        removed.append(checkpoint.path)
    return removed


def _all(folder: Path) -> list[Checkpoint]:
    if not folder.is_dir():
        return []
    found = []
    for place in folder.iterdir():
        match = _NAME.fullmatch(place.name)
        if match and place.is_dir() and not place.is_symlink():
            found.append(Checkpoint(place, int(match.group(1))))
    return sorted(found, key=lambda checkpoint: checkpoint.number)


def _problem(folder: Path, config_hash: str | None, *, deep: bool) -> str | None:
    try:
        marker = read_json(folder / MARKER)
    except ValueError:
        return "its marker is damaged"
    if marker is None:
        return "it has no marker: the write was interrupted"
    if config_hash is not None and marker.get("config_hash") != config_hash:
        return "it belongs to another configuration"
    for name, expected in marker["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"]:
            return f"{name} has another size"
        if deep and _digest(file, sync=False)[1] != expected["sha256"]:
            return f"{name} has other contents"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MARKER)


def _digest(file: Path, *, sync: bool) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(file, "rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(data.fileno())
    return size, digest.hexdigest()
