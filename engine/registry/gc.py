"""Freeing what nothing refers to: mark, a grace for the young, the trash, then deletion.

Reachable is every blob of every artifact that is not deleted. Young blobs stay whatever their
state: a publication that runs now has stored them and not yet named them.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from engine.errors import IntegrityError, NotFound
from engine.registry.documents import Collected
from engine.registry.layout import digest_of
from engine.supervise.crash import crash_point
from engine.supervise.durable import sync_folder
from engine.types.artifacts import GcReport

if TYPE_CHECKING:
    from engine.registry.store import Store

#: Longer than any publication takes between storing its first blob and its event.
GRACE_S = 24 * 3600.0


def reachable(store: Store) -> set[str]:
    """Digests of the blobs that artifacts (not deleted) are made of.

    Raises:
        IntegrityError: a manifest is damaged: what it needs is unknown, so nothing may be freed.
    """
    marked: set[str] = set()
    for row in store.db().execute("select manifest from artifacts where deleted=0"):
        try:
            manifest, _ = store.read_manifest(row["manifest"])
        except NotFound as error:
            raise IntegrityError(
                "nothing is freed",
                why=f"the manifest {row['manifest'][:19]} is missing, so what it needs is unknown",
                hint="modelops-tui models fsck",
            ) from error
        marked.update(file.sha256 for file in manifest.files)
    return marked


def collect(store: Store, *, dry_run: bool = True, grace_s: float | None = None) -> GcReport:
    """Free unreachable blobs older than the grace.

    Args:
        store: the registry.
        dry_run: only tell.
        grace_s: seconds a blob must be old; by default a day.
    """
    limit = time.time() - (GRACE_S if grace_s is None else grace_s)
    with store.locked():
        _empty_trash(store)
        marked = reachable(store)
        blobs, size, young = [], 0, 0
        with os.scandir(store.layout.blobs) as entries:
            for entry in entries:
                if entry.name in marked:
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime > limit:
                    young += 1
                    continue
                blobs.append(entry.name)
                size += status.st_size
        staging = _stale_staging(store, limit, dry_run=dry_run)
        if not dry_run:
            _sweep(store, blobs, size)
            _drop_deleted(store)
    return GcReport(len(blobs), size, young, staging, dry_run)


def _sweep(store: Store, blobs: list[str], size: int) -> None:
    if not blobs:
        return
    for digest in blobs:
        os.rename(store.layout.blob(digest), store.layout.trash / digest)
        crash_point("registry.gc-trashed")
    sync_folder(store.layout.trash)
    sync_folder(store.layout.blobs)
    store.commit(Collected(blobs=len(blobs), size_bytes=size))
    crash_point("registry.gc-recorded")
    _empty_trash(store)


def _empty_trash(store: Store) -> None:
    """What a collection left behind; blobs that became reachable again come back."""
    left = [entry.name for entry in os.scandir(store.layout.trash)]
    if not left:
        return
    marked = reachable(store)
    for name in left:
        path = store.layout.trash / name
        if name in marked and not store.layout.blob(name).exists():
            path.rename(store.layout.blob(name))
        else:
            path.unlink()


def _stale_staging(store: Store, limit: float, *, dry_run: bool) -> int:
    count = 0
    for entry in os.scandir(store.layout.staging):
        if entry.stat(follow_symlinks=False).st_mtime > limit:
            continue
        count += 1
        if dry_run:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    return count


def _drop_deleted(store: Store) -> None:
    """Folders of links and attestations of deleted artifacts."""
    for row in store.db().execute("select manifest from artifacts where deleted=1"):
        digest = digest_of(row["manifest"])
        for folder in (store.layout.views / digest, store.layout.attest / digest):
            if folder.exists():
                shutil.rmtree(folder)
