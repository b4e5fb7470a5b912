"""The engine's end of ``engine.sock``: says who it is, what it does, and leaves when asked.

One short-lived thread a client; only processes of the same user are answered.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from engine.daemon import protocol
from engine.daemon.doorbell import short_socket_path
from engine.daemon.engine import Engine
from engine.paths import StatePaths

_log = logging.getLogger(__name__)

_CLIENT_TIMEOUT_S = 30.0


class ControlServer:
    """Listens on ``engine.sock`` (mode 0600 in the 0700 state directory)."""

    def __init__(self, paths: StatePaths, engine: Engine, leave: Callable[[], None]) -> None:
        self._paths = paths
        self._engine = engine
        self._leave = leave
        self._started = time.time()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            paths.engine_socket.unlink()
        with short_socket_path(paths.engine_socket) as name:
            self._socket.bind(name)
        paths.engine_socket.chmod(0o600)

    def start(self) -> None:
        """Begin to answer: the engine is ready."""
        self._socket.listen(16)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        with suppress(OSError):
            self._paths.engine_socket.unlink()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with conn, suppress(OSError, ValueError):
            conn.settimeout(_CLIENT_TIMEOUT_S)
            buffer = bytearray()
            if protocol.peer_uid(conn) not in (os.getuid(), 0):
                # closed with the request unread, the answer would be lost with the connection
                protocol.receive_line(conn, buffer)
                protocol.send_line(conn, {"error": "another user's engine"})
                return
            while (request := protocol.receive_line(conn, buffer)) is not None:
                protocol.send_line(conn, self._answer(request))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = request.get("op")
        if operation == "hello":
            return self._hello()
        if operation == "status":
            return {**self._hello(), **self._engine.status(), **_usage()}
        if operation == "stop":
            _log.info("asked to leave by version %s", request.get("version"))
            self._leave()
            return {"ok": True}
        if operation in ("freeze", "thaw"):
            done = self._engine.freeze(str(request.get("job")), thaw=operation == "thaw")
            return {"ok": done}
        return {"error": f"unknown operation {operation!r}"}

    def _hello(self) -> dict[str, Any]:
        return {
            "protocol": protocol.PROTOCOL,
            "version": protocol.program_version(),
            "pid": os.getpid(),
            "started": self._started,
            "state_dir": str(self._paths.root),
        }


def _usage() -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"memory_bytes": resident, "cpu_seconds": usage.ru_utime + usage.ru_stime}
