"""Rows kept one by one (from a chat) until they become a version of a dataset.

A row is in a file of the state directory at once, so that nothing is lost with the program that
kept it; a version for each row would be a signed artifact for each.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from engine.data.versions import (
    check_name,
    dataset_names,
    import_rows,
    open_dataset,
    source_hash,
)
from engine.errors import NotFound
from engine.paths import StatePaths
from engine.types.chats import KeptRows
from engine.types.data import DatasetVersion


def keep(paths: StatePaths, dataset: str, row: Mapping[str, Any]) -> int:
    """Write a row down for ``dataset``.

    Returns:
        How many rows wait for it now.

    Raises:
        BadInput: the name can't name a dataset.
        OSError: the disk is full; rows kept before are whole.
    """
    check_name(dataset)
    paths.ensure().kept.mkdir(mode=0o700, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    with _held(paths, dataset, create=True) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise
        return _count(file)


def waiting(paths: StatePaths) -> tuple[KeptRows, ...]:
    """What was kept and is in no version yet, by name of the dataset."""
    if not paths.kept.is_dir():
        return ()
    found = []
    for path in sorted(paths.kept.glob("*.jsonl")):
        with path.open("rb") as file:
            rows = _count(file)
        if rows:
            found.append(KeptRows(path.stem, rows))
    return tuple(found)


def rows(paths: StatePaths, dataset: str) -> tuple[dict[str, Any], ...]:
    """The rows that wait for ``dataset``.

    Raises:
        NotFound: none does.
    """
    with _held(paths, dataset) as file:
        return tuple(json.loads(line) for line in file if line.strip())


def add(paths: StatePaths, dataset: str) -> DatasetVersion:
    """Make a version of ``dataset`` with the waiting rows added to those it has.

    Raises:
        NotFound: no row waits for it.
        ModelOpsError: what an import raises; the rows wait on.
    """
    with _held(paths, dataset) as file:
        count = _count(file)
        path = _file(paths, dataset)
        known = dataset in dataset_names(paths)
        if known:
            # killed after the import and before its rows were let go: they are not added twice
            newest = open_dataset(dataset, paths).versions()[0]
            if newest.source == str(path.absolute()) and newest.source_sha256 == source_hash(path):
                os.ftruncate(file.fileno(), 0)
                return newest
        told = f"{count} row{'s' if count != 1 else ''} kept in a chat"
        mode = "append" if known else "overwrite"
        version, _ = import_rows(path, dataset, paths, mode=mode, message=told)
        os.ftruncate(file.fileno(), 0)
        return version


def discard(paths: StatePaths, dataset: str) -> int:
    """Let the waiting rows go; returns how many there were.

    Raises:
        NotFound: no row waits for it.
    """
    with _held(paths, dataset) as file:
        count = _count(file)
        os.ftruncate(file.fileno(), 0)
        return count


def _file(paths: StatePaths, dataset: str) -> Path:
    return paths.kept / f"{dataset}.jsonl"


def _count(file: IO[bytes]) -> int:
    file.seek(0)
    return sum(1 for line in file if line.strip())


@contextmanager
def _held(paths: StatePaths, dataset: str, *, create: bool = False) -> Iterator[IO[bytes]]:
    """The file, for one process at a time; the others wait.

    Emptied, never removed: a lock on a removed file would hold nobody back.
    """
    path = _file(paths, check_name(dataset))
    missing = NotFound(
        f"no rows wait for the dataset {dataset!r}", hint="`modelops-tui data kept` lists them"
    )
    if not create and not path.exists():
        raise missing
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if not create and not _count(file):
            raise missing
        file.seek(0)
        yield file
