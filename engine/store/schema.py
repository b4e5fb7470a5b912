"""The tables of ``jobs.db`` and how an older file is brought up to date.

``PRAGMA user_version`` counts the migrations applied. Each runs in one transaction together with
the new number; the file is copied beside itself before the first of them.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from engine.errors import Conflict, EngineUnavailable
from engine.store.connection import connect, transaction, translated

_JOBS = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('queued','running','stopping','succeeded','failed','cancelled','paused')),
    reason TEXT NOT NULL DEFAULT '',
    want TEXT CHECK (want IN ('cancel','cancel-now','pause')),
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    attempt INTEGER NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0,
    lane TEXT NOT NULL,
    step TEXT,
    steps_total INTEGER NOT NULL,
    steps_done INTEGER NOT NULL DEFAULT 0,
    recipe_sha256 TEXT NOT NULL,
    source_path TEXT,
    fresh INTEGER NOT NULL DEFAULT 0,
    passed INTEGER NOT NULL DEFAULT 0,
    notified INTEGER NOT NULL DEFAULT 1,
    error TEXT,
    last_done REAL,
    last_total REAL,
    last_unit TEXT,
    last_loss REAL,
    last_rate REAL,
    last_eta_s REAL,
    last_memory_bytes INTEGER,
    last_message TEXT,
    last_event_at REAL
)
"""

_STEPS = """
CREATE TABLE steps (
    job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    ord INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    lane TEXT NOT NULL,
    shares INTEGER NOT NULL DEFAULT 0,
    estimate_bytes INTEGER,
    declared INTEGER NOT NULL DEFAULT 0,
    device TEXT,
    threads INTEGER NOT NULL DEFAULT 0,
    signature TEXT,
    needs TEXT NOT NULL,
    require TEXT NOT NULL,
    point TEXT,
    params TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    memo_key TEXT,
    memo_of TEXT,
    started REAL,
    ended REAL,
    outputs TEXT NOT NULL DEFAULT '{}',
    report TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (job_id, name)
) WITHOUT ROWID
"""

_ATTEMPTS = """
CREATE TABLE attempts (
    job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    step TEXT NOT NULL,
    lane TEXT NOT NULL,
    state TEXT NOT NULL,
    began REAL,
    ended REAL,
    exit TEXT,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID
"""

_MEMO = """
CREATE TABLE memo (
    key TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    step TEXT NOT NULL,
    outputs TEXT NOT NULL,
    report TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID
"""

_PEAKS = """
CREATE TABLE peaks (
    signature TEXT NOT NULL,
    device TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    seconds REAL NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (signature, device)
) WITHOUT ROWID
"""

#: Migration n (from 1) takes a file of version n-1 to version n. Released entries never change.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        _JOBS,
        "CREATE INDEX jobs_by_state ON jobs(state, seq)",
        "CREATE INDEX jobs_untold ON jobs(seq) WHERE notified=0",
        _STEPS,
        _ATTEMPTS,
        _MEMO,
        "CREATE INDEX memo_by_job ON memo(job_id)",
        _PEAKS,
    ),
)

VERSION = len(MIGRATIONS)


def user_version(conn: sqlite3.Connection) -> int:
    """The number of migrations this file has seen (0: an empty file)."""
    return int(conn.execute("PRAGMA user_version").fetchone()[0])


def open_store(
    path: Path, *, may_migrate: bool = False, shared: bool = False
) -> sqlite3.Connection:
    """Open ``jobs.db``, creating it when it is not there.

    Args:
        path: the database file.
        may_migrate: the caller holds ``engine.lock`` and may bring an older file up to date.
        shared: allow the connection in other threads (the caller serialises the use).

    Raises:
        Conflict: the file was written by a newer version of the program.
        EngineUnavailable: the file is older and only the engine may migrate it.
    """
    conn = connect(path, shared=shared)
    try:
        with translated():
            version = user_version(conn)
        if version < VERSION and (version == 0 or may_migrate):
            migrate(conn, path)
        elif version < VERSION:
            raise EngineUnavailable(
                "the job store was written by an older version",
                why=f"its version is {version}, this program's is {VERSION}",
                hint="`modelops-tui engine restart` migrates it (a backup is kept)",
            )
        if version > VERSION:
            raise Conflict(
                "the job store was written by a newer version of modelops-tui",
                why=f"its version is {version}, this program knows up to {VERSION}",
                hint="use that version, or another state directory (--state DIR)",
            )
    except BaseException:
        conn.close()
        raise
    return conn


def migrate(
    conn: sqlite3.Connection,
    path: Path,
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS,
) -> Path | None:
    """Apply the migrations this file lacks; safe when several processes create it at once.

    Returns:
        The backup made first, or None where the file was empty.
    """
    backup = None
    version = user_version(conn)
    if 0 < version < len(migrations):
        backup = back_up(conn, path, version)
    for number in range(version, len(migrations)):
        with transaction(conn):
            # another process may have been quicker: the lock is ours only now
            if user_version(conn) != number:
                continue
            for statement in migrations[number]:
                conn.execute(statement)
            conn.execute(f"PRAGMA user_version={number + 1}")
    return backup


def back_up(conn: sqlite3.Connection, path: Path, version: int) -> Path:
    """Copy the database to ``jobs.db.backup-v<version>`` (complete or not there at all)."""
    target = path.with_name(f"{path.name}.backup-v{version}")
    partial = target.with_name(target.name + ".part")
    partial.unlink(missing_ok=True)
    with translated():
        copy = sqlite3.connect(partial)
        try:
            conn.backup(copy)
        finally:
            copy.close()
    partial.rename(target)
    return target
