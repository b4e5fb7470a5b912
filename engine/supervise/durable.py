"""Files that are either whole or not there: write, fsync, rename, fsync the folder."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SYNC_FILE_RANGE_WRITE = 2


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The call of the C library; None where there is none (it is Linux's own)."""
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call  # type: ignore[no-any-return]


def begin_writeback(fd: int, start: int, length: int) -> None:
    """Ask the disk to begin with ``length`` bytes at ``start``, so that a later fsync waits less.

    Promises nothing: what must be durable is still fsynced, and that reports every error.
    """
    call = _sync_file_range()
    if call is not None:
        call(fd, start, length, _SYNC_FILE_RANGE_WRITE)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write ``data`` under a temporary name, fsync it, rename it to ``path``, fsync the folder."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    partial.rename(path)
    sync_folder(path.parent)


def write_json_durably(path: Path, value: Any) -> None:
    """``write_durably`` of a JSON document."""
    write_durably(path, json.dumps(value, ensure_ascii=False, default=str).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None when there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    value: dict[str, Any] = json.loads(data)
    return value


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """``read_json`` that takes a damaged file for a missing one (a disk that lost its writes)."""
    try:
        return read_json(path)
    except ValueError:
        return None
