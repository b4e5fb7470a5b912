"""Which files an artifact is made of: a walk that follows no link and opens no pipe."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadInput, NotFound, Refused
from engine.registry.layout import MAX_FILES
from engine.registry.names import check_paths


@dataclass(frozen=True)
class Source:
    """A file to publish."""

    name: str
    """Path inside the artifact."""
    path: Path
    blob: str | None = None
    """Digest, where the path is a link of our own into the blob folder."""


def gather(files: Path | Mapping[str, Path], blobs: Path) -> list[Source]:
    """The files of a folder, of one file, or of a mapping, sorted by name.

    Args:
        files: what the caller gave.
        blobs: our blob folder: links into it (a materialized artifact) are the only ones followed.

    Raises:
        NotFound: there is nothing at the path.
        BadInput: no file, or more than 100,000.
        Refused: links, pipes, devices, hostile or colliding names.
    """
    if isinstance(files, Mapping):
        found = [_plain(name, Path(path), blobs) for name, path in files.items()]
    else:
        folder = Path(files)
        if not folder.exists():
            raise NotFound(f"there is nothing at {folder}")
        one = folder.is_file()
        found = [_plain(folder.name, folder, blobs)] if one else _walk(folder, blobs)
    if not found:
        raise BadInput(f"{files} holds no file")
    if len(found) > MAX_FILES:
        raise BadInput(f"{len(found)} files are too many", why=f"the limit is {MAX_FILES}")
    found.sort(key=lambda source: source.name)
    check_paths(source.name for source in found)
    return found


def _walk(folder: Path, blobs: Path) -> list[Source]:
    found: list[Source] = []
    pending = [(folder, "")]
    while pending:
        here, prefix = pending.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), name + "/"))
                else:
                    found.append(_plain(name, Path(entry.path), blobs))
        if len(found) > MAX_FILES:
            break
    return found


def _plain(name: str, path: Path, blobs: Path) -> Source:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    if stat.S_ISREG(mode):
        return Source(name, path)
    if stat.S_ISLNK(mode):
        target = Path(os.path.realpath(path))
        if target.parent == Path(os.path.realpath(blobs)) and target.is_file():
            return Source(name, target, blob=target.name)
        raise Refused(
            f"{path} is refused",
            why=f"it is a link to {os.readlink(path)}; links are not followed",
            hint="copy the file into the folder",
        )
    kind = next(
        (
            word
            for test, word in (
                (stat.S_ISFIFO, "a pipe"),
                (stat.S_ISSOCK, "a socket"),
                (stat.S_ISBLK, "a device"),
                (stat.S_ISCHR, "a device"),
            )
            if test(mode)
        ),
        "no plain file",
    )
    raise Refused(f"{path} is refused", why=f"it is {kind}")
