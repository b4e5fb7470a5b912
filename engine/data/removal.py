"""Taking datasets away, and what removals that were killed left behind.

A dataset is first renamed to ``.NAME.<random>.removed`` (gone for everyone at once), then deleted
under the lock it was renamed with; its lock file goes last, so whoever finds such a folder can tell
whether somebody is still at it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from engine.data.versions import open_dataset
from engine.errors import Refused
from engine.paths import StatePaths


def remove(name: str, paths: StatePaths, *, force: bool = False) -> None:
    """Delete a dataset with all its versions.

    Raises:
        Refused: a version is published (a lineage may name it) and ``force`` is not given.
        Conflict: another process writes it now.
    """
    dataset = open_dataset(name, paths)
    published = [v for v in dataset.versions() if v.manifest]
    if published and not force:
        raise Refused(
            f"{name} is published as a signed artifact",
            why=", ".join(f"v{v.version}" for v in published),
            hint="--force removes the table; the artifacts stay in the registry",
        )
    with dataset.writing():
        doomed = paths.datasets / f".{name}.{secrets.token_hex(4)}.removed"
        dataset.folder.replace(doomed)
        _delete(doomed)
    clear_removed(paths.datasets)


def clear_removed(datasets: Path) -> int:
    """Delete what killed removals left in ``datasets``; those that still run are left alone.

    Returns:
        How many leftovers were taken up.
    """
    cleared = 0
    for doomed in datasets.glob(".*.removed"):
        try:
            lock = os.open(doomed / "lock", os.O_RDWR)
        except FileNotFoundError:
            # killed at its very end: a removal that runs has its lock file or an empty folder
            _delete(doomed)
            cleared += 1
            continue
        except NotADirectoryError:
            continue  # no folder: not ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(doomed)
            cleared += 1
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
    return cleared


def _delete(doomed: Path) -> None:
    """Everything in the folder, its lock file last.

    Nothing is raised: the dataset is gone already, and what stays is found by the next clearing.
    """
    try:
        entries = [entry for entry in os.scandir(doomed) if entry.name != "lock"]
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            Path(entry).unlink(missing_ok=True)
    shutil.rmtree(doomed, ignore_errors=True)
