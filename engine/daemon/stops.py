"""Carrying out what people asked of running jobs: cancel, cancel now, pause."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Mapping

from engine.daemon.attempts import Running

_SIGNALS = {
    "cancel": signal.SIGTERM,
    "pause": signal.SIGTERM,
    "cancel-now": signal.SIGUSR1,
}


def carry_requests(conn: sqlite3.Connection, running: Mapping[tuple[str, int], Running]) -> None:
    """Signal the shims of jobs with a wish. Each signal goes once; the shim minds the grace."""
    rows = conn.execute(
        "SELECT id, attempt, want FROM jobs WHERE state='stopping' AND want IS NOT NULL"
    ).fetchall()
    for row in rows:
        attempt = running.get((row["id"], row["attempt"]))
        if attempt is not None:
            attempt.send(_SIGNALS[row["want"]])
