"""Waiting for a file to grow: inotify where the kernel gives it, else a look ten times a second."""

from __future__ import annotations

import ctypes
import os
import select
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

#: Seconds between two looks where there is no inotify (none left, another file system).
STAT_PAUSE_S = 0.1

_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO = 0x2, 0x100, 0x80


class Growth:
    """Wakes when one of some files is written to; made before the files are read.

    Args:
        files: they may not be there yet; their folders must.
        inotify: False looks at sizes only (for tests, and file systems without events).
    """

    def __init__(self, *files: Path, inotify: bool = True) -> None:
        self._files = files
        self._fd = _watch({file.parent for file in files}) if inotify else None
        self._sizes = self._look()

    def wait(self, timeout: float) -> bool:
        """Wait until a file has changed since the last call; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            sizes = self._look()
            if sizes != self._sizes:
                self._sizes = sizes
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._fd is None:
                time.sleep(min(left, STAT_PAUSE_S))
            elif select.select([self._fd], [], [], left)[0]:
                # which folder's file it was, the sizes tell
                os.read(self._fd, 65536)

    def close(self) -> None:
        """Let the kernel's watch go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Growth:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self) -> tuple[int, ...]:
        return tuple(_size(file) for file in self._files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def _watch(folders: set[Path]) -> int | None:
    """A descriptor that is readable after a change in one of ``folders``; None without inotify."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:
        return None
    if fd < 0:
        return None
    mask = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO
    for folder in folders:
        if libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
            with suppress(OSError):
                os.close(fd)
            return None
    return fd
