"""Which process is it? A pid with its kernel start time and the boot names one process for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

#: In the environment of every worker: ``<state dir>|<job>/<attempt>``. Finds what lost its parents.
MARKER_ENV = "MODELOPS_ATTEMPT"


@cache
def boot_id() -> str:
    """Differs from boot to boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """The kernel's start time of a process, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def open_process(begun: Mapping[str, Any]) -> int | None:
    """A pidfd for the process that wrote ``begun.json``, None when it is gone.

    The descriptor is opened first and the identity compared afterwards, so a reused pid is never
    taken for the shim.
    """
    if begun.get("boot") != boot_id():
        return None
    try:
        fd = os.pidfd_open(int(begun["pid"]))
    except (OSError, KeyError, ValueError):
        return None
    if start_ticks(int(begun["pid"])) != begun.get("ticks"):
        os.close(fd)
        return None
    return fd


def marker(state_dir: object, job_id: str, attempt: int) -> str:
    """The value of ``MODELOPS_ATTEMPT`` for an attempt."""
    return f"{state_dir}|{job_id}/{attempt}"


def find_marked(text: str, session: int | None = None) -> list[int]:
    """Pids of our processes that carry ``text`` as their marker, or belong to ``session``.

    Zombies are left out: they hold nothing.
    """
    return [pid for pid in _own_processes() if _marked(pid, text) or _in_session(pid, session)]


def kill_marked(text: str, session: int | None = None, patience_s: float = 5.0) -> bool:
    """KILL every process of an attempt that lost its shim; True when none is left."""
    deadline = time.monotonic() + patience_s
    while pids := find_marked(text, session):
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _own_processes() -> Iterator[int]:
    me, user = os.getpid(), os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    yield int(name)


def _marked(pid: int, text: str) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        # a zombie's environment reads as empty
        return f"{MARKER_ENV}={text}".encode() in file.read().split(b"\0")
    return False


def _in_session(pid: int, session: int | None) -> bool:
    if session is None:
        return False
    with suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
        state, _, _, its_session = file.read().rpartition(b")")[2].split()[:4]
        return state not in (b"Z", b"X") and int(its_session) == session
    return False
