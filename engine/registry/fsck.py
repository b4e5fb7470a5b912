"""Checking the registry's own files: quick, deep, and mending what can be mended.

Quick looks at names, sizes, signatures and chains; deep reads every byte. Mending rebuilds what is
derived (index, folders of links), moves damaged blobs away and, given a remote, fetches them again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import IntegrityError, ModelOpsError
from engine.registry import index as index_module
from engine.registry import log, trust
from engine.registry.layout import digest_of
from engine.registry.materialize import is_whole
from engine.types.artifacts import Fault, FsckReport

if TYPE_CHECKING:
    from engine.registry.documents import Manifest
    from engine.registry.store import Store

Report = Callable[[int, int], None]
Fetch = Callable[[str, int], bool]
"""Fetch a blob (digest, size) from a remote; True when it is here now."""


@dataclass
class _Run:
    faults: list[Fault] = field(default_factory=list)
    blobs: int = 0
    manifests: int = 0
    events: int = 0
    bytes_read: int = 0

    def fault(self, kind: str, subject: str, text: str, *, repaired: bool = False) -> None:
        self.faults.append(Fault(kind, subject, text, repaired))


def fsck(
    store: Store,
    *,
    deep: bool = False,
    repair: bool = False,
    fetch: Fetch | None = None,
    report: Report | None = None,
) -> FsckReport:
    """Check every file of the registry.

    Args:
        store: the registry.
        deep: read every byte of every blob.
        repair: rebuild what is derived, move damaged blobs out of the way.
        fetch: get a missing blob back (a remote); used with ``repair``.
        report: told bytes done and in all.
    """
    begun = time.monotonic()
    run = _Run()
    with store.locked():
        _check_trust(store, run)
        _check_log(store, run)
        needed = _check_manifests(store, run)
        _check_blobs(store, run, needed, deep=deep, repair=repair, fetch=fetch, report=report)
        _check_index(store, run, repair=repair)
        _check_views(store, run, repair=repair)
    return FsckReport(
        ok=all(fault.repaired for fault in run.faults),
        faults=tuple(run.faults),
        blobs=run.blobs,
        manifests=run.manifests,
        events=run.events,
        bytes_read=run.bytes_read,
        deep=deep,
        seconds=time.monotonic() - begun,
    )


def _check_trust(store: Store, run: _Run) -> None:
    try:
        trust.load(store.layout, store.pinned)
    except IntegrityError as error:
        run.fault("trust", "trust/", str(error))
    expected = {f"{n}.root.json" for n in range(1, store.trust.current.version + 1)}
    for entry in os.scandir(store.layout.trust):
        if entry.name not in expected and not entry.name.startswith("."):
            run.fault("trust", entry.name, "no root of the chain has this name")


def _check_log(store: Store, run: _Run) -> None:
    for writer in log.writers(store.layout):
        head = log.EMPTY
        try:
            for signed in log.read_log(store.layout, store.trust, writer, head):
                head = log.Head(signed.event.seq, signed.digest, signed.author)
                run.events += 1
        except (ModelOpsError, OSError) as error:
            run.fault("event", writer, str(error))
            continue
        names = {
            entry.name
            for entry in os.scandir(store.layout.log / writer)
            if not entry.name.startswith(".")
        }
        odd = names - {f"{seq:016d}.json" for seq in range(1, head.seq + 1)}
        if odd:
            run.fault("event", f"{writer}/{min(odd)}", "events after a gap, or an odd name")
    _check_known(store, run)


def _check_known(store: Store, run: _Run) -> None:
    """What the index has seen must still be there: a log that lost its end is a rollback."""
    if not store.index.usable():
        return
    with closing(store.index.connect()) as db:
        for writer, head in index_module.read_heads(db).items():
            path = store.layout.event(writer, head.seq)
            if not path.exists():
                run.fault("event", f"{writer}/{head.seq}", "it was here and is gone")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != head.digest:
                run.fault("event", f"{writer}/{head.seq}", "it is not the event that was here")


def _check_manifests(store: Store, run: _Run) -> dict[str, Manifest]:
    """Every manifest file, and those that living artifacts need. digest -> manifest."""
    needed: dict[str, Manifest] = {}
    found: dict[str, Manifest] = {}
    for entry in sorted(os.scandir(store.layout.manifests), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        run.manifests += 1
        try:
            digest = digest_of(entry.name.removesuffix(".json"))
            with open(entry.path, "rb") as file:
                found[digest] = store.check_manifest(file.read(), digest)[0]
        except (ModelOpsError, OSError) as error:
            run.fault("manifest", entry.name, str(error))
    try:
        rows = store.db().execute("select manifest, deleted from artifacts").fetchall()
    except ModelOpsError as error:
        run.fault("index", "index.db", str(error))
        return found
    for row in rows:
        digest = digest_of(row["manifest"])
        if digest in found:
            if not row["deleted"]:
                needed[digest] = found[digest]
        elif not row["deleted"] and not store.layout.manifest(digest).exists():
            run.fault("manifest", digest, "it was published and is missing")
    return needed


def _check_blobs(
    store: Store,
    run: _Run,
    needed: dict[str, Manifest],
    *,
    deep: bool,
    repair: bool,
    fetch: Fetch | None,
    report: Report | None,
) -> None:
    partial = store.partial()
    sizes: dict[str, tuple[int, str, bool]] = {}
    for digest, manifest in needed.items():
        for file in manifest.files:
            label = f"{manifest.name}@{manifest.version} {file.path}"
            sizes.setdefault(file.sha256, (file.size, label, digest in partial))
    present = {entry.name: entry for entry in os.scandir(store.layout.blobs)}
    total = sum(e.stat(follow_symlinks=False).st_size for e in present.values())
    for digest, entry in sorted(present.items()):
        run.blobs += 1
        size = entry.stat(follow_symlinks=False).st_size
        wanted = sizes.get(digest)
        problem = ""
        if wanted is not None and size != wanted[0]:
            problem = f"{size} bytes, signed are {wanted[0]} ({wanted[1]})"
        elif deep or store.blobs.changed(digest):
            if not store.blobs.intact(digest, deep=deep):
                problem = "its bytes do not have its name as sha256"
                problem += f" ({wanted[1]})" if wanted else ""
            run.bytes_read += size
        if problem:
            run.fault("blob", digest, problem, repaired=_mend(store, digest, wanted, repair, fetch))
        if report:
            report(min(run.bytes_read, total), total)
    for digest, wanted in sorted(sizes.items()):
        if digest not in present and not wanted[2]:
            run.fault(
                "blob",
                digest,
                f"missing ({wanted[1]})",
                repaired=_mend(store, digest, wanted, repair, fetch),
            )


def _mend(
    store: Store,
    digest: str,
    wanted: tuple[int, str, bool] | None,
    repair: bool,
    fetch: Fetch | None,
) -> bool:
    """Put a damaged blob aside; get it again where a remote has it. True when all is well."""
    if not repair:
        return False
    path = store.layout.blob(digest)
    if path.exists() or path.is_symlink():
        path.rename(store.layout.trash / f"{digest}.damaged")
    if wanted is None:
        return True
    return fetch is not None and fetch(digest, wanted[0])


def _check_index(store: Store, run: _Run, *, repair: bool) -> None:
    try:
        before = index_module.dump(store.db())
        scratch = store.layout.staging / f"index-{os.getpid()}.db"
        scratch.unlink(missing_ok=True)
        after = _rebuilt(store, scratch)
    except (ModelOpsError, sqlite3.DatabaseError) as error:
        run.fault("index", "index.db", str(error), repaired=_rebuild(store, run, repair))
        return
    different = [table for table in after if before.get(table) != after[table]]
    if different:
        run.fault(
            "index",
            "index.db",
            f"a rebuild differs in {', '.join(different)}",
            repaired=_rebuild(store, run, repair),
        )


def _rebuilt(store: Store, scratch: os.PathLike[str]) -> dict[str, list[tuple[object, ...]]]:
    """The index as the log and the manifests alone make it, in a scratch file."""
    from pathlib import Path

    path = Path(scratch)
    try:
        index_module.make_tables(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            store.index.catch_up(db, store.trust)
            return index_module.dump(db)
    finally:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _rebuild(store: Store, run: _Run, repair: bool) -> bool:
    if not repair or any(f.kind in ("event", "trust") for f in run.faults):
        return False
    store.rebuild_index()
    return True


def _check_views(store: Store, run: _Run, *, repair: bool) -> None:
    if not store.layout.views.exists():
        return
    import shutil

    for entry in sorted(os.scandir(store.layout.views), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        try:
            manifest = store.read_manifest(f"sha256:{entry.name}")[0]
            whole = is_whole(store.layout.views / entry.name, manifest, store.layout.blobs)
        except ModelOpsError:
            whole = False
        if not whole:
            if repair:
                shutil.rmtree(entry.path)
            run.fault("view", entry.name, "its links were changed", repaired=repair)
