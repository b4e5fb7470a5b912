"""Ports of deployments: found free, kept for good, refused with the reason."""

from __future__ import annotations

import socket

from engine.errors import Conflict

#: Where the search for a free port begins; each deployment keeps the one it got.
FIRST_PORT = 8100
LAST_PORT = 8999


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; ``port`` 0 takes the first free one of ours.

    Raises:
        Conflict: the port is taken, or none is free, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        try:
            return _bound(host, port, family)
        except OSError as error:
            raise Conflict(
                f"can't listen on {host} port {port}",
                why=error.strerror or str(error),
                hint="choose another port, or 0 for a free one",
            ) from error
    for candidate in range(FIRST_PORT, LAST_PORT + 1):
        try:
            return _bound(host, candidate, family)
        except OSError:
            continue
    raise Conflict(f"no port from {FIRST_PORT} to {LAST_PORT} is free on {host}")


def _bound(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # a port whose last owner was killed is ours again at once
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(512)
    except OSError:
        made.close()
        raise
    made.setblocking(False)
    return made


def port_problem(host: str, port: int, family: socket.AddressFamily) -> str:
    """Why nobody can listen there now; empty when it is free."""
    try:
        _bound(host, port, family).close()
    except OSError as error:
        return f"can't listen on {host} port {port}: {error.strerror or error}"
    return ""
