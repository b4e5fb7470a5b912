"""Publishing: blobs first, then the signed manifest, then the event, then the index.

A crash between any two of these leaves at most blobs and manifests that nothing refers to; the next
publication under the same key completes them, or ``gc`` sweeps them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from engine.errors import BadInput, Conflict, NotFound, OutOfSpace
from engine.registry import content, envelope, licenses
from engine.registry.blobs import full_disk
from engine.registry.documents import (
    ArtifactType,
    FileEntry,
    Manifest,
    Parent,
    Publish,
    now,
    payload_of,
    validate,
)
from engine.registry.files import Source, gather
from engine.registry.layout import MAX_DOCUMENT_BYTES, digest_of
from engine.registry.names import check_name, check_tag
from engine.registry.store import MANIFEST_TYPE
from engine.registry.trust import create_only
from engine.supervise.crash import crash_point

if TYPE_CHECKING:
    import sqlite3

    from engine.registry.store import Store

Report = Callable[[str, int, int], None]
"""``(file, bytes done in all, bytes in all)``."""


@dataclass(frozen=True)
class Wanted:
    """What is to be published, before its files are read."""

    name: str
    artifact_type: str
    parents: tuple[tuple[str, str], ...] = ()
    metrics: Mapping[str, float] | None = None
    card: str = ""
    license: str | None = None
    run: Mapping[str, Any] | None = None
    recipe: str | None = None
    tags: tuple[str, ...] = ()
    key: str | None = None
    version: str | None = None
    hidden: bool = False
    allow_pickles: bool = False
    move: bool = False

    def check(self) -> None:
        """Everything that can be refused without reading a file.

        Raises:
            BadInput: a name, type, tag, relation or metric is not valid.
        """
        check_name(self.name)
        types = get_args(ArtifactType)
        if self.artifact_type not in types:
            raise BadInput(
                f"{self.artifact_type!r} is no type of artifact", why=f"known: {', '.join(types)}"
            )
        for tag in self.tags:
            check_tag(tag)
        if self.version is not None:
            check_tag(self.version, "version")
        for _, parent in self.parents:
            digest_of(parent)
        if len(self.card.encode()) > 1 << 20:
            raise BadInput("the card is too long", why="the limit is 1 MiB")


def publish(
    store: Store, wanted: Wanted, files: Path | Mapping[str, Path], report: Report | None = None
) -> str:
    """Publish files as an artifact.

    Returns:
        The manifest id; the first one where the idempotence key was used before.

    Raises:
        BadInput, Refused, Conflict, OutOfSpace, IntegrityError: see the checks.
    """
    wanted.check()
    known = by_key(store.db(), wanted.key)
    if known:
        return known
    sources = gather(files, store.layout.blobs)
    found = [
        (source.name, content.look(source.path, source.name)) for source in sources
    ]  # fmt: skip
    scan = content.scan(found, allow_pickles=wanted.allow_pickles)
    try:
        entries = _take(store, sources, dict(found), wanted.move, report)
    except OSError as error:
        raise full_disk(error, store.layout.blobs) from error
    return publish_entries(store, wanted, entries, scan)


def _require_blobs(store: Store, entries: list[FileEntry]) -> None:
    """Under the lock: a collection that ran since a blob was found may have swept it."""
    gone = [e.path for e in entries if not store.blobs.has(e.sha256, e.size)]
    if gone:
        raise Conflict(
            "blobs of this publication were collected while it ran",
            why=", ".join(gone[:5]),
            hint="publish again; give `models gc` a longer --grace",
        )


def _take(
    store: Store,
    sources: list[Source],
    found: Mapping[str, content.Content],
    move: bool,
    report: Report | None,
) -> list[FileEntry]:
    total = sum(source.path.stat().st_size for source in sources)
    done = 0
    entries = []
    for source in sources:

        def progress(count: int, name: str = source.name) -> None:
            nonlocal done
            done += count
            if report:
                report(name, done, total)

        if source.blob is not None:
            size = source.path.stat().st_size
            store.blobs.require(source.blob, size, source.name)
            digest = source.blob
        else:
            taken = store.blobs.take(source.path, move=move, progress=progress)
            digest, size = taken.digest, taken.size
        crash_point("registry.blob-taken")
        entries.append(
            FileEntry(
                path=source.name,
                sha256=digest,
                size=size,
                media_type=found[source.name].media_type,
            )
        )
    return entries


def publish_entries(store: Store, wanted: Wanted, entries: list[FileEntry], scan: Any) -> str:
    """Sign a manifest over blobs that are here, and commit it.

    Raises:
        Conflict: the version exists with other content.
    """
    from engine.registry import modelsig, sbom

    with store.locked():
        db = store.db()
        known = by_key(db, wanted.key)
        if known:
            return known
        _require_blobs(store, entries)
        version = wanted.version or next_version(db, wanted.name)
        if _taken(db, wanted.name, version):
            raise Conflict(
                f"{wanted.name} has a version {version} already",
                hint="give another version, or leave it out to count on",
            )
        manifest = _manifest(store, wanted, version, entries, scan)
        bom = sbom.cyclonedx(manifest, _parents(store, wanted.parents))
        manifest = manifest.model_copy(update={"sbom": hashlib.sha256(bom).hexdigest()})
        sealed = envelope.seal(MANIFEST_TYPE, payload_of(manifest), [store.device.signer])
        data = sealed.to_bytes()
        if len(data) > MAX_DOCUMENT_BYTES:
            raise BadInput("the manifest is too large", why=f"{len(data)} bytes; fewer files fit")
        digest = hashlib.sha256(data).hexdigest()
        manifest_id = f"sha256:{digest}"
        try:
            modelsig.attest(store, digest, manifest, bom)
            create_only(store.layout.manifest(digest), data)
        except OSError as error:
            raise full_disk(error, store.layout.root) from error
        crash_point("registry.manifest-written")
        try:
            store.commit(
                Publish(
                    manifest=manifest_id,
                    name=wanted.name,
                    version=version,
                    key=wanted.key,
                    hidden=wanted.hidden,
                )
            )
        except OutOfSpace:
            store.layout.manifest(digest).unlink(missing_ok=True)
            raise
        return manifest_id


def _manifest(
    store: Store, wanted: Wanted, version: str, entries: list[FileEntry], scan: Any
) -> Manifest:
    license_ = wanted.license
    if license_ is None:
        license_ = licenses.inherited(m.license for m in _parents(store, wanted.parents))
    return validate(
        Manifest,
        {
            "registry": store.id,
            "name": wanted.name,
            "version": version,
            "type": wanted.artifact_type,
            "created": now(),
            "files": entries,
            "parents": [Parent(manifest=parent, rel=rel) for rel, parent in wanted.parents],
            "recipe": wanted.recipe,
            "run": {str(k): str(v) for k, v in (wanted.run or {}).items()},
            "metrics": _decimals(wanted.metrics or {}),
            "card": wanted.card,
            "license": licenses.normalise(license_) if license_ else None,
            "scan": scan,
            "tags": sorted(set(wanted.tags)),
        },
        f"the manifest of {wanted.name}",
    )


def _decimals(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: repr(float(value)) for name, value in metrics.items() if math.isfinite(value)}


def _parents(store: Store, parents: Iterable[tuple[str, str]]) -> list[Manifest]:
    found = []
    for _, parent in parents:
        try:
            found.append(store.read_manifest(parent)[0])
        except NotFound:
            continue  # a parent that lives in another registry: its edge is kept all the same
    return found


def by_key(db: sqlite3.Connection, key: str | None) -> str | None:
    """The manifest that was published under an idempotence key."""
    if key is None:
        return None
    row = db.execute("select manifest from keys where key=?", (key,)).fetchone()
    return str(row[0]) if row else None


def next_version(db: sqlite3.Connection, name: str) -> str:
    """One more than the largest whole-number version of a name."""
    row = db.execute(
        "select max(cast(version as integer)) from artifacts where name=? "
        "and version not glob '*[^0-9]*'",
        (name,),
    ).fetchone()
    return str(int(row[0] or 0) + 1)


def _taken(db: sqlite3.Connection, name: str, version: str) -> bool:
    row = db.execute("select 1 from artifacts where name=? and version=?", (name, version))
    return row.fetchone() is not None
