"""A file on its way in: hashed as it comes, never larger than what was signed, gone on with later.

Whatever an earlier attempt left is hashed first and counts; whether all of it was right is seen at
the end, by the hash of the whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import IntegrityError
from engine.registry.blobs import CHUNK
from engine.supervise.durable import begin_writeback

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: What an interrupted download of a larger file left is kept and gone on with.
RESUME_ABOVE = 16 << 20
#: Up to this a file is hashed where it is written: a thread would cost more than it gains.
_INLINE = 2 << 20
#: How many chunks the hash may be behind the transfer: the memory that a file in flight takes.
_LATE = 4
#: After so many bytes the disk is asked to begin.
_WRITEBACK = 8 << 20

Progress = Callable[[int], None]


class Arrival:
    """The receiving end of a download.

    A large file is hashed in a thread of its own, and the disk begins before all of it is there:
    what verifying adds to the time of a transfer is then only what two cores have not left.
    """

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
        self._hasher = ThreadPoolExecutor(1) if size > _INLINE else None
        self._hashing: deque[Future[None]] = deque()
        self._begun = 0
        self._fd = _open(path) if resume else _create(path)
        if resume:
            self._recall()

    def _recall(self) -> None:
        """Hash what an earlier attempt left."""
        try:
            while self.done <= self._size and (chunk := os.read(self._fd, CHUNK)):
                self._count(chunk)
            if self.done > self._size:
                # no beginning of ours: from zero
                self._hashed(0)
                os.ftruncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
                self.done, self._digest = 0, hashlib.sha256()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._hasher is not None:
            self._hasher.shutdown(wait=True, cancel_futures=True)
        os.close(self._fd)

    def _hashed(self, behind: int) -> None:
        """Wait until the hash is at most ``behind`` chunks late."""
        while len(self._hashing) > behind:
            self._hashing.popleft().result()

    def _count(self, chunk: Buffer) -> None:
        if self._hasher is None:
            self._digest.update(chunk)
        else:
            self._hashing.append(self._hasher.submit(self._digest.update, chunk))
            self._hashed(_LATE)
        length = memoryview(chunk).nbytes
        self.done += length
        self._progress(length)

    def take(self, chunks: Iterable[Buffer]) -> Arrival:
        """Write and hash what comes (buffers are not copied, and must not change).

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
            if self.done - self._begun >= _WRITEBACK:
                begin_writeback(self._fd, self._begun, self.done - self._begun)
                self._begun = self.done
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
        self._hashed(0)
        return self._digest.hexdigest()


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _create(path: Path) -> int:
    """A new file; what an earlier attempt left under that name goes."""
    with suppress(FileExistsError):
        return _open(path, os.O_EXCL)
    path.unlink()
    return _open(path, os.O_EXCL)


def claim(path: Path) -> int | None:
    """A descriptor that holds ``path`` for us alone; None where another pull is at it."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.lstat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody has it, or has just finished and renamed it away
    os.close(fd)
    return None
