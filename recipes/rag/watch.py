"""Keep an index up to date while its folder changes: inotify where it is, else a look every while.

The kernel only says that something changed; what changed is found by the sync itself, so a lost
notification costs a moment, never a document.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

#: created, written, moved, deleted (linux/inotify.h)
_MASK = 0x100 | 0x8 | 0x40 | 0x80 | 0x200
_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000
#: an editor writes several times when it saves; the sync waits for the folder to be quiet
SETTLE_SECONDS = 1.0
#: links, network mounts and lost notifications are seen by this at the latest
SWEEP_SECONDS = 60.0


class Watcher:
    """Waits for changes below a folder. Use it as a context manager.

    Args:
        root: the folder.
        sweep: seconds after which :meth:`wait` returns in any case.
    """

    def __init__(self, root: Path, sweep: float = SWEEP_SECONDS) -> None:
        self.root = root
        self.sweep = sweep
        self._fd = -1
        self._libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)

    def __enter__(self) -> Watcher:
        self._fd = int(self._libc.inotify_init1(_CLOEXEC_NONBLOCK))
        self._watch_all()
        return self

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def notified(self) -> bool:
        """False where the kernel gives no notifications: then the sweep alone finds changes."""
        return self._fd >= 0

    def _watch_all(self) -> None:
        if self._fd < 0:
            return
        for folder, _, _ in os.walk(self.root):
            added = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
            if added < 0:
                # out of watches (fs.inotify.max_user_watches): the sweep does the rest
                os.close(self._fd)
                self._fd = -1
                return

    def wait(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Block until the folder changed and is quiet again, or the sweep is due.

        Returns:
            True for a notification, False for the sweep or a stop.
        """
        deadline = time.monotonic() + self.sweep
        while time.monotonic() < deadline and not stop():
            if self._drain(min(0.5, max(deadline - time.monotonic(), 0))):
                while self._drain(SETTLE_SECONDS) and not stop():
                    pass
                self._watch_all()
                return True
        return False

    def _drain(self, seconds: float) -> bool:
        if self._fd < 0:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return False
        try:
            return bool(os.read(self._fd, 1 << 16))
        except BlockingIOError:
            return False
