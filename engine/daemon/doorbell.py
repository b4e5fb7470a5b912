"""The doorbell: a datagram that says "look at jobs.db now". It may be lost; a 2 s sweep follows."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.paths import StatePaths


@contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits the 107 bytes of a unix socket address.

    The folder is opened and named through ``/proc/self/fd``; the name is valid inside the block.
    """
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def ring(paths: StatePaths) -> bool:
    """Wake the engine. Never blocks and never fails: False when no engine hears it."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.setblocking(False)
        with short_socket_path(paths.doorbell) as name:
            bell.sendto(b"!", name)
            return True
    return False


def open_doorbell(paths: StatePaths) -> socket.socket:
    """The engine's end (non-blocking). A socket left by a dead engine is replaced."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.setblocking(False)
    try:
        with suppress(FileNotFoundError):
            paths.doorbell.unlink()
        with short_socket_path(paths.doorbell) as name:
            bell.bind(name)
        paths.doorbell.chmod(0o600)
    except BaseException:
        bell.close()
        raise
    return bell


def drain(bell: socket.socket) -> None:
    """Take every waiting ring: one look at the store answers them all."""
    with suppress(BlockingIOError):
        while True:
            bell.recv(16)
