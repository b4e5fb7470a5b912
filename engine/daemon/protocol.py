"""The words between a client and the engine: one JSON object a line over ``engine.sock``.

The client speaks first: ``{"op": "hello", "protocol": 1, "version": "0.1.0"}``; every request is
answered by one object, with ``"error"`` in it when it was refused.
"""

from __future__ import annotations

import json
import socket
import struct
from importlib import metadata
from typing import Any

#: Changes when an older client or engine could misunderstand the other.
PROTOCOL = 1

_LINE_CAP = 1 << 20


def program_version() -> str:
    """The installed version of this program."""
    try:
        return metadata.version("modelops-tui")
    except metadata.PackageNotFoundError:
        return "0"


def version_key(text: str) -> tuple[int, ...]:
    """``"0.10.2"`` as ``(0, 10, 2)``; anything that is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def peer_uid(conn: socket.socket) -> int:
    """The user id of the process at the other end (SO_PEERCRED: the kernel's word)."""
    data = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])


def send_line(conn: socket.socket, value: dict[str, Any]) -> None:
    """Send one object."""
    conn.sendall(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def receive_line(conn: socket.socket, buffer: bytearray) -> dict[str, Any] | None:
    """The next object, None at the end of the stream. ``buffer`` keeps what came too much.

    Raises:
        ValueError: not a JSON object, or longer than a megabyte.
    """
    while b"\n" not in buffer:
        data = conn.recv(65536)
        if not data:
            return None
        buffer += data
        if len(buffer) > _LINE_CAP:
            raise ValueError("the line is too long")
    line, _, rest = bytes(buffer).partition(b"\n")
    buffer[:] = rest
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
