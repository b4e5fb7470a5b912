"""Logs keep their offsets when they are capped: the middle becomes a hole that takes no space."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

#: The beginning of a log (command line, versions, first errors) is always kept.
HEAD_BYTES = 1 << 20
_BLOCK = 1 << 16


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc


def punch(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system; it reads as NUL bytes afterwards.

    Raises:
        OSError: the file system can't (EOPNOTSUPP on some).
    """
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _libc().fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def cap_log(path: Path, cap: int, head: int = HEAD_BYTES) -> int:
    """Keep the first ``head`` bytes of a log and the newest, ``cap`` in all.

    The hole grows by a quarter of the cap at a time, so that a busy log is not punched every
    second.

    Args:
        path: the log; it may be growing.
        cap: bytes of disk it may take.
        head: bytes at its beginning that stay.

    Returns:
        Bytes given back (0: below the cap, or not there).
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    used = status.st_blocks * 512
    if used <= cap or status.st_size <= cap:
        return 0
    keep_from = (status.st_size - max(0, cap * 3 // 4 - head)) // _BLOCK * _BLOCK
    begin = -(-head // _BLOCK) * _BLOCK
    if keep_from <= begin:
        return 0
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        punch(fd, begin, keep_from - begin)
    finally:
        os.close(fd)
    return used - path.stat().st_blocks * 512
