"""Connections to ``jobs.db``, and the one way to write: a transaction that always ends.

Plain ``sqlite3``: importing it costs 3 ms, sqlite_utils 107 to 500 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import ModelOpsError, OutOfSpace

#: Seconds a writer waits for another writer before it gives up.
BUSY_TIMEOUT_S = 30.0


class StoreBusy(ModelOpsError):
    """Another process holds the job store's write lock for too long; nothing was changed."""

    code = "store_busy"


def connect(
    path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S, shared: bool = False
) -> sqlite3.Connection:
    """Open ``jobs.db`` with its durability settings (WAL, ``synchronous=FULL``).

    Args:
        path: the database file; its folder must exist.
        busy_timeout_s: how long a statement waits for a lock.
        shared: allow the connection in other threads (the caller serialises the use).
    """
    conn = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=not shared
    )
    try:
        conn.row_factory = sqlite3.Row
        with translated():
            conn.execute("PRAGMA journal_mode=WAL")
            # FULL: a COMMIT returns after the write-ahead log was fsynced; NORMAL would lose it
            # with the power, and `submitted` would have been a lie
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors that a person can act on into ours.

    Raises:
        OutOfSpace: the disk is full.
        StoreBusy: the lock could not be had in time.
        ModelOpsError: the file is not a usable database.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            raise OutOfSpace(
                "the job store could not be written",
                why=f"no space left on the device ({text})",
                hint="free some space (`modelops-tui jobs rm`), then try again",
            ) from error
        if "locked" in text or "busy" in text:
            raise StoreBusy(
                "the job store is busy",
                why="another process holds its write lock",
                hint="try again; if it stays so, look for a stopped process that uses jobs.db",
            ) from error
        raise ModelOpsError("the job store could not be used", why=text) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise ModelOpsError(
            "the job store is damaged",
            why=str(error),
            hint="restore the newest jobs.db.backup-* beside it, or move it away",
        ) from error


@contextmanager
def transaction(conn: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """``BEGIN IMMEDIATE`` ... ``COMMIT``; any failure, also of the COMMIT itself, rolls back.

    SQLite leaves a transaction open whose COMMIT failed (full disk, busy): without the rollback
    the next statement of this connection would quietly join it.
    """
    with translated():
        conn.execute("BEGIN IMMEDIATE")
        try:
            yield conn
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:
                # SQLite may have rolled back by itself (full disk): then there is nothing to do
                with suppress(sqlite3.OperationalError):
                    conn.execute("ROLLBACK")
            raise
