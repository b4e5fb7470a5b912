"""Bytes at keys: the few verbs a remote must have, and a folder that has them.

Everything is created once and never replaced but one key, which is replaced only where it is still
the version that was read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from engine.errors import BadInput, IntegrityError, NotFound
from engine.registry.blobs import CHUNK, open_plain, room
from engine.registry.sync.arrival import Arrival, Progress

_KEY = re.compile(r"^[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*$")


def check_key(key: str) -> str:
    """``key`` when it is one of ours: no ``//`` (some servers alias it), no ``..``, plain words.

    Raises:
        BadInput: it is not.
    """
    if not _KEY.fullmatch(key) or ".." in key.split("/") or "." in key.split("/"):
        raise BadInput(f"{key!r} is no key of a remote")
    return key


class Transport(Protocol):
    """What push and pull need of a place."""

    url: str
    conditional: bool
    """Creates and replaces are atomic for several writers (for S3: as the probe found)."""

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        """A small object and its version tag.

        Raises:
            NotFound: there is none.
            IntegrityError: it is larger than ``limit``, or was cut short.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object; False (and nothing happens) where there is one."""
        ...

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Replace the version ``tag`` (None: create); False where another one is there."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """``(key, size)`` under a prefix (a folder name, without the slash)."""
        ...

    def upload(self, key: str, path: Path, progress: Progress) -> None:
        """Create an object from a file; an interrupted upload goes on where it was."""
        ...

    def download(
        self, key: str, path: Path, size: int, progress: Progress, *, resume: bool = False
    ) -> str:
        """Stream an object into a file.

        Args:
            key: the object.
            path: the file.
            size: how many bytes were signed.
            progress: told the bytes that are there.
            resume: go on after what an earlier attempt left in the file.

        Returns:
            The sha256 of what came.

        Raises:
            IntegrityError: more or fewer bytes than ``size``.
            NotFound: there is none.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object (only the probe's own)."""
        ...


class Folder:
    """A remote in a folder: a mounted disk, a USB stick, a shared directory."""

    conditional = True

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = f"file://{self.root}"

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        path = self._path(key)
        try:
            fd = open_plain(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{self.url} has no {key}") from error
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"{key} is refused", why=f"it is larger than {limit} bytes")
        return data, hashlib.sha256(data).hexdigest()

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        partial = self._write(path, data)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    def _write(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with room(self.root), os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return partial

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        path = self._path(key)
        with self._lock():
            try:
                present = hashlib.sha256(path.read_bytes()).hexdigest()
            except FileNotFoundError:
                present = None
            if present != tag:
                return False
            self._write(path, data).rename(path)
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        base = self._path(prefix)
        for here, folders, files in os.walk(base):
            folders.sort()
            for name in sorted(files):
                path = Path(here) / name
                if not name.startswith(".") and path.is_file() and not path.is_symlink():
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def upload(self, key: str, path: Path, progress: Progress) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        try:
            with room(self.root), open(path, "rb") as source, open(partial, "xb") as out:
                while chunk := source.read(CHUNK):
                    out.write(chunk)
                    progress(len(chunk))
                out.flush()
                os.fsync(out.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def download(
        self, key: str, path: Path, size: int, progress: Progress, *, resume: bool = False
    ) -> str:
        try:
            fd = open_plain(self._path(key))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{self.url} has no {key}") from error
        with (
            os.fdopen(fd, "rb") as source,
            Arrival(path, size, key, progress, resume=resume) as into,
        ):
            source.seek(into.done)
            return into.take(iter(lambda: source.read(CHUNK), b"")).finish()

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)
