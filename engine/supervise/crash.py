"""Named crash points: where the fault harness kills a process that wears its environment variable.

``MODELOPS_CRASH=point:n`` kills the process with SIGKILL at the n-th passing of ``point`` (a list
is separated by commas); ``MODELOPS_CRASH_ONCE=<folder>`` lets each point kill one process only.
Without the variable a crash point is one comparison with None.
"""

from __future__ import annotations

import os
import signal

_ENV = "MODELOPS_CRASH"


def _parse(text: str | None) -> dict[str, int] | None:
    if not text:
        return None
    points = {}
    for item in text.split(","):
        point, _, count = item.partition(":")
        points[point.strip()] = int(count or 1)
    return points


_armed = _parse(os.environ.get(_ENV))


def crash_point(name: str) -> None:
    """Die here, as by a power cut of this process, when the harness armed ``name``."""
    if _armed is None or name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] <= 0 and _first_time(name):
        os.kill(os.getpid(), signal.SIGKILL)


def _first_time(name: str) -> bool:
    folder = os.environ.get("MODELOPS_CRASH_ONCE")
    if not folder:
        return True
    try:
        os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
