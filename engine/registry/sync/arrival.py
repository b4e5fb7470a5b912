"""A file on its way in: hashed as it comes, never larger than what was signed, gone on with later.

Whatever an earlier attempt left is hashed first and counts; whether all of it was right is seen at
the end, by the hash of the whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import IntegrityError
from engine.registry.blobs import CHUNK

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What an interrupted download of a larger file left is kept and gone on with.
RESUME_ABOVE = 16 << 20

Progress = Callable[[int], None]


class Arrival:
    """The receiving end of a download."""

    def __init__(
        self, path: Path, size: int, key: str, progress: Progress, *, resume: bool = False
    ) -> None:
        """Begin, or go on.

        Args:
            path: where the bytes go.
            size: how many were signed.
            key: what it is; for messages.
            progress: told the bytes that are there.
            resume: keep what an earlier attempt left at ``path``.
        """
        self.done = 0
        self._size, self._key, self._progress = size, key, progress
        self._digest = hashlib.sha256()
        if not resume:
            with suppress(FileNotFoundError):
                path.unlink()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while self.done <= size and (chunk := os.read(self._fd, CHUNK)):
                self._count(chunk)
            if self.done > size:
                # no beginning of ours: from zero
                os.ftruncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
                self.done, self._digest = 0, hashlib.sha256()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _count(self, chunk: Buffer) -> None:
        self._digest.update(chunk)
        length = memoryview(chunk).nbytes
        self.done += length
        self._progress(length)

    def take(self, chunks: Iterable[Buffer]) -> Arrival:
        """Write and hash what comes (buffers are not copied).

        Raises:
            IntegrityError: more than ``size`` bytes.
        """
        for chunk in chunks:
            rest = memoryview(chunk)
            if self.done + rest.nbytes > self._size:
                raise IntegrityError(
                    f"{self._key} is refused", why=f"more than {self._size} bytes came"
                )
            while rest.nbytes:
                rest = rest[os.write(self._fd, rest) :]
            self._count(chunk)
        return self

    def finish(self) -> str:
        """The sha256 of all of it, now on the disk and read-only.

        Raises:
            IntegrityError: fewer than ``size`` bytes came.
        """
        if self.done != self._size:
            raise IntegrityError(
                f"{self._key} is refused",
                why=f"{self.done} of {self._size} bytes came: the body was cut short",
            )
        os.fchmod(self._fd, 0o444)
        os.fsync(self._fd)
        return self._digest.hexdigest()


def claim(path: Path) -> int | None:
    """A descriptor that holds ``path`` for us alone; None where another pull is at it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.lstat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody has it, or has just finished and renamed it away
    os.close(fd)
    return None
