"""The kernel's locks: who is the engine, who has a lane, whether an attempt still lives.

A flock belongs to an open file description and is freed when its last copy is closed, also by
death. Descriptors are passed on, never unlocked: ``LOCK_UN`` on any copy would free them all.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Take the lock on ``path``; the descriptor to keep, or None when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_locked(path: Path) -> bool:
    """True while some process holds the lock."""
    fd = try_lock(path)
    if fd is None:
        return True
    os.close(fd)
    return False
