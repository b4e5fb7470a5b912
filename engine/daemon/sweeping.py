"""Run folders that no job owns: the rest of a submit or a delete that a crash cut short."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import sqlite3
from pathlib import Path

from engine.paths import StatePaths
from engine.store.connection import transaction

_log = logging.getLogger(__name__)

#: How a submit in progress names its folder before the job has an id.
STAGED_PREFIX = ".new-"


def sweep_run_folders(conn: sqlite3.Connection, paths: StatePaths) -> list[str]:
    """Remove folders without a job; returns their names.

    A folder with an id's name is created under the store's write lock, in the transaction that
    inserts its row: seen under that lock without a row, it is garbage. A staged folder is locked
    by its submitting process while that lives.
    """
    if not paths.runs.is_dir():
        return []
    names = {entry.name for entry in os.scandir(paths.runs) if entry.is_dir(follow_symlinks=False)}
    staged = [name for name in names if name.startswith(STAGED_PREFIX)]
    known = {row[0] for row in conn.execute("SELECT id FROM jobs")}
    removed = [name for name in staged if _remove_if_abandoned(paths.runs / name)]
    suspects = names - known - set(staged)
    if suspects:
        with transaction(conn):
            # looked at again under the lock: a submit may have been quicker than our listing
            owned = {row[0] for row in conn.execute("SELECT id FROM jobs")}
            garbage = sorted(suspects - owned)
            for name in garbage:
                (paths.runs / name).rename(paths.runs / f"{STAGED_PREFIX}swept-{name}")
        for name in garbage:
            shutil.rmtree(paths.runs / f"{STAGED_PREFIX}swept-{name}", ignore_errors=True)
        removed += garbage
    if removed:
        _log.info("swept %d run folders without a job", len(removed))
    return removed


def make_staged(runs: Path) -> tuple[Path, int]:
    """A new staged folder, locked for as long as its submitter lives, and the descriptor to close.

    A sweep may come between making and locking the folder and take it for abandoned: then another
    one is made.
    """
    while True:
        folder = runs / f"{STAGED_PREFIX}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if folder.exists():
            return folder, fd
        os.close(fd)


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(fd)
