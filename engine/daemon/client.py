"""The other end of ``engine.sock``: find the engine, start it detached, ask it things, stop it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from engine.daemon import protocol
from engine.daemon.doorbell import short_socket_path
from engine.errors import Conflict, EngineUnavailable
from engine.paths import ENV_HOME, StatePaths

#: Seconds an engine may take until it answers, and until it is gone: a busy machine or a slow disk
#: takes some. One that ends instead is seen at once.
READY_S = 60.0
LEAVE_S = 60.0
_EXIT_OTHER_ENGINE = 75
_LOG_CAP = 4 << 20


def ask(paths: StatePaths, request: dict[str, Any], timeout: float = 5.0) -> dict[str, Any] | None:
    """Send one request; the answer, or None when no engine answers.

    Raises:
        EngineUnavailable: the socket is another user's, or the engine refused.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
            conn.settimeout(timeout)
            with short_socket_path(paths.engine_socket) as name:
                conn.connect(name)
            if protocol.peer_uid(conn) not in (os.getuid(), 0):
                raise EngineUnavailable("the engine's socket belongs to another user")
            protocol.send_line(conn, {"version": protocol.program_version(), **request})
            answer = protocol.receive_line(conn, bytearray())
    except (OSError, ValueError):
        return None
    if answer is not None and "error" in answer:
        raise EngineUnavailable("the engine refused the request", why=str(answer["error"]))
    return answer


def hello(paths: StatePaths, timeout: float = 2.0) -> dict[str, Any] | None:
    """Who answers, or None: ``{"protocol", "version", "pid", "started", "state_dir"}``."""
    return ask(paths, {"op": "hello", "protocol": protocol.PROTOCOL}, timeout=timeout)


def ensure(paths: StatePaths) -> dict[str, Any]:
    """An engine of this version or a newer one that speaks our protocol; started when none runs.

    An older engine is asked to hand over: it leaves, its runs go on, and ours adopts them.

    Raises:
        EngineUnavailable: it could not be started; the reason is the end of its log.
        Conflict: a newer engine that this program can't talk to runs.
    """
    answer = hello(paths)
    if answer is None:
        return start(paths)
    if protocol.version_key(str(answer["version"])) < protocol.version_key(
        protocol.program_version()
    ):
        stop(paths)
        return start(paths)
    if answer["protocol"] != protocol.PROTOCOL:
        raise Conflict(
            "the running engine belongs to another version of modelops-tui",
            why=f"it is {answer['version']}, this is {protocol.program_version()}",
            hint="use that version, or `modelops-tui engine restart` to replace it",
        )
    return answer


def start(paths: StatePaths) -> dict[str, Any]:
    """Start an engine of its own session, without a terminal, and wait until it answers.

    Raises:
        EngineUnavailable: it ended or was not ready within a minute.
    """
    from engine.daemon import systemd

    paths.ensure()
    begin = _log_end(paths)
    process = None if systemd.start_installed(paths) else _spawn(paths)
    deadline = time.monotonic() + READY_S
    pause = 0.01
    while time.monotonic() < deadline:
        answer = hello(paths)
        if answer is not None:
            return answer
        status = process.poll() if process is not None else None
        if status not in (None, _EXIT_OTHER_ENGINE):
            raise EngineUnavailable(
                "the engine could not be started",
                why=_log_tail(paths, begin) or f"it left with status {status}",
                hint=f"its log is {paths.engine_log}",
            )
        time.sleep(pause)
        pause = min(0.1, pause * 1.3)
    raise EngineUnavailable(
        f"the engine was not ready within {READY_S:.0f} s",
        why=_log_tail(paths, begin),
        hint=f"its log is {paths.engine_log}",
    )


def stop(paths: StatePaths, timeout: float = LEAVE_S) -> bool:
    """Ask the engine to leave and wait until it is gone; False when none ran. Runs go on.

    Raises:
        EngineUnavailable: it did not leave in time.
    """
    # where nobody listens, that is told at once: one that is slow to answer is no engine less
    answer = hello(paths, timeout)
    if answer is None:
        return False
    pid = int(answer["pid"])
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        ask(paths, {"op": "stop"}, timeout)
        import select

        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise EngineUnavailable(
                "the engine did not leave",
                why=f"process {pid} is still there after {timeout:.0f} s",
            )
    finally:
        os.close(process)
    return True


def _spawn(paths: StatePaths) -> subprocess.Popen[bytes]:
    with suppress(OSError):
        if paths.engine_log.stat().st_size > _LOG_CAP:
            paths.engine_log.rename(paths.engine_log.with_suffix(".log.1"))
    fd = os.open(paths.engine_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # -P: a file named like a library in the current folder must not be imported
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.daemon"],
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd=paths.root,
            env={**os.environ, ENV_HOME: str(paths.root)},
            start_new_session=True,
        )
    finally:
        os.close(fd)


def _log_end(paths: StatePaths) -> int:
    try:
        return paths.engine_log.stat().st_size
    except FileNotFoundError:
        return 0


def _log_tail(paths: StatePaths, begin: int) -> str:
    try:
        with open(paths.engine_log, encoding="utf-8", errors="replace") as log:
            log.seek(begin if begin <= paths.engine_log.stat().st_size else 0)
            lines = [line.rstrip() for line in log if line.strip()]
    except OSError:
        return ""
    return "\n".join(lines[-5:])
