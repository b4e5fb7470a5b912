"""Pushing: pull and merge first, then blobs, manifests, events, and last the checkpoint.

Another machine's push in between makes ours begin again from the merge (412): nothing is lost, and
what was uploaded stays.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import Conflict, NotFound, Refused
from engine.registry import canonical
from engine.registry.documents import FileEntry, Publish, epoch, now
from engine.registry.index import read_heads
from engine.registry.layout import FORMAT, MAX_DOCUMENT_BYTES, digest_of
from engine.registry.log import Head, SignedEvent, read_event
from engine.registry.query import in_words
from engine.registry.sync import pull, remote
from engine.registry.sync.transport import Transport
from engine.supervise.crash import crash_point
from engine.types.artifacts import SyncChange, SyncProgress, SyncReport, SyncStatus

if TYPE_CHECKING:
    from engine.registry.store import Store
    from engine.registry.sync.remote import Found

Report = Callable[[SyncProgress], None]
_WORKERS = 8
_ROUNDS = 60


@dataclass
class Outgoing:
    """What is here and not at the remote."""

    roots: list[int]
    events: list[tuple[str, int]]
    manifests: list[str]
    blobs: list[FileEntry]
    heads: dict[str, Head]
    root: int

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.blobs)


def plan(store: Store, transport: Transport, found: Found | None) -> Outgoing:
    """What a push would move, by the remote's checkpoint and its list of blobs.

    Raises:
        Refused: an artifact was pulled in part and its blobs are not at the remote either.
    """
    there = found.checkpoint.writers if found else {}
    events, manifests = [], []
    heads = read_heads(store.db())
    for writer, head in sorted(heads.items()):
        first = there[writer].seq + 1 if writer in there else 1
        for seq in range(first, head.seq + 1):
            events.append((writer, seq))
            body = _event(store, writer, seq).event.body
            if isinstance(body, Publish):
                manifests.append(digest_of(body.manifest))
    blobs = _blobs(store, transport, manifests) if manifests else []
    first_root = found.checkpoint.root + 1 if found else 1
    newest = store.trust.current.version
    roots = list(range(first_root, newest + 1))
    return Outgoing(roots, events, manifests, blobs, heads, newest)


def _event(store: Store, writer: str, seq: int) -> SignedEvent:
    data = store.layout.event(writer, seq).read_bytes()
    return read_event(data, store.trust, f"event {writer}/{seq}")


def _blobs(store: Store, transport: Transport, manifests: list[str]) -> list[FileEntry]:
    deleted = {
        digest_of(row[0])
        for row in store.db().execute("select manifest from artifacts where deleted=1")
    }
    wanted: dict[str, FileEntry] = {}
    for digest in manifests:
        if digest in deleted:
            continue
        manifest = store.find_manifest(f"sha256:{digest}")
        for file in manifest.files if manifest else ():
            wanted.setdefault(file.sha256, file)
    if not wanted:
        return []
    there = dict(transport.list("blobs/sha256"))
    missing = [
        file for file in wanted.values() if there.get(remote.blob_key(file.sha256)) != file.size
    ]
    absent = [file for file in missing if not store.blobs.has(file.sha256, file.size)]
    if absent:
        raise Refused(
            "the push is refused",
            why=f"{len(absent)} blobs are neither here nor there (first: {absent[0].path}): "
            "an artifact was pulled in part",
            hint="pull it whole from where it is, then push",
        )
    return missing


def push(
    store: Store,
    name: str,
    transport: Transport,
    *,
    dry_run: bool = False,
    report: Report | None = None,
) -> SyncReport:
    """Bring a remote up to date, and ourselves with what others pushed (without their blobs).

    Args:
        store: the registry.
        name: the remote's name.
        transport: the remote.
        dry_run: only tell what would move.
        report: told the progress.

    Raises:
        Conflict: others pushed all the time.
        IntegrityError, Refused: as for a pull; nothing was published.
    """
    begun = time.monotonic()
    _may_push(store)
    events = manifests = blobs = size = 0
    for attempt in range(_ROUNDS):
        found = _merged(store, name, transport, dry_run=dry_run)
        _may_write(store, transport, found)
        outgoing = plan(store, transport, found)
        if attempt == 0:
            events, manifests = len(outgoing.events), len(outgoing.manifests)
        blobs += len(outgoing.blobs)
        size += outgoing.size_bytes
        nothing = not outgoing.events and not outgoing.roots and _fresh(store, found)
        if dry_run or nothing:
            break
        _upload(store, transport, outgoing, report)
        crash_point("registry.push-uploaded")
        if _publish(store, name, transport, found, outgoing):
            break
        time.sleep(random.uniform(0, min(1.0, 0.02 * 2 ** min(attempt, 6))))  # noqa: S311
    else:
        raise Conflict(
            f"{name} changed {_ROUNDS} times during the push",
            hint="what was uploaded stays there; push again",
        )
    return SyncReport(
        remote=name,
        events=events,
        manifests=manifests,
        blobs=blobs,
        size_bytes=size,
        seconds=time.monotonic() - begun,
        dry_run=dry_run,
        retries=attempt,
    )


def _may_push(store: Store) -> None:
    store.db()
    trust = store.trust
    if not trust.has_role(store.device.id, "device") or store.device.id in trust.current.revoked:
        raise Refused(
            "this machine may not push",
            why="its device key is not (or no longer) in the trust root",
            hint="the registry's holder runs: modelops-tui keys add PUBLIC --owner NAME "
            "(`modelops-tui keys show` prints PUBLIC here), and pushes",
        )


def _may_write(store: Store, transport: Transport, found: Found | None) -> None:
    if transport.conditional or found is None or found.key == store.device.id:
        return
    raise Refused(
        f"{transport.url} can't be shared",
        why="the server does not honour conditional writes, and another machine pushes to it: "
        "one of the two pushes would be lost",
        hint="push from that machine only, or use a server that passes `modelops-tui remote probe`",
    )


def _fresh(store: Store, found: Found | None) -> bool:
    """False where the checkpoint should be renewed: none, a third of its time gone, or revoked."""
    if found is None or found.key in store.trust.current.revoked:
        return False
    age = time.time() - epoch(found.checkpoint.created)
    return age < remote.VALID_DAYS * 86400 / 3


def _merged(store: Store, name: str, transport: Transport, *, dry_run: bool) -> Found | None:
    """Take in what others pushed (their blobs stay there), or make the remote ours."""
    try:
        incoming = pull.fetch(store, name, transport, allow_expired=True, to_replace=True)
    except NotFound:
        remote.check_seen(store, name, None, store.trust)
        if dry_run:
            return None
        about = {
            "format": FORMAT,
            "registry": store.id,
            "root": store.trust.fingerprint,
            "created": now(),
        }
        first = transport.create(remote.ABOUT, canonical.dumps(about))
        if not first:
            remote.check_same(store, remote.read_about(transport), transport.url)
        return None
    if not dry_run:
        left = {
            digest
            for digest, (manifest, _) in incoming.manifests.items()
            if pull.missing_blobs(store, [manifest])
        }
        pull.merge(store, incoming, partial=left)
        if incoming.found is not None:
            remote.remember(store, name, incoming.found)
    return incoming.found


def _upload(store: Store, transport: Transport, outgoing: Outgoing, report: Report | None) -> None:
    total, done = outgoing.size_bytes, 0

    def blob(file: FileEntry) -> None:
        mine = 0

        def progress(count: int) -> None:
            nonlocal done, mine
            done += count
            mine += count
            if report:
                report(SyncProgress("upload", file.path, done, total, mine, file.size))

        path = store.blobs.require(file.sha256, file.size, file.path)
        transport.upload(remote.blob_key(file.sha256), path, progress)

    def document(item: tuple[str, Path]) -> None:
        key, data = item[0], item[1].read_bytes()
        if not transport.create(key, data):
            _same(transport, key, data)

    with ThreadPoolExecutor(_WORKERS) as pool:
        _all(pool.map(blob, outgoing.blobs))
        crash_point("registry.push-blobs")
        layout = store.layout
        roots = [(f"trust/{n}.root.json", layout.root_document(n)) for n in outgoing.roots]
        _all(pool.map(document, roots))
        manifests = [(remote.manifest_key(d), layout.manifest(d)) for d in outgoing.manifests]
        _all(pool.map(document, manifests))
        crash_point("registry.push-manifests")
        events = [(remote.event_key(w, s), layout.event(w, s)) for w, s in outgoing.events]
        _all(pool.map(document, events))


def _all(results: object) -> None:
    """Wait for every one; the first failure is raised."""
    for _ in results:  # type: ignore[attr-defined]
        continue


def _same(transport: Transport, key: str, data: bytes) -> None:
    there, _ = transport.get(key, MAX_DOCUMENT_BYTES)
    if there != data:
        if key.startswith("log/"):
            _, writer, file = key.split("/")
            raise remote.fork(
                transport.url,
                writer,
                int(file.removesuffix(".json")),
                pull.digest_bytes(data),
                pull.digest_bytes(there),
            )
        raise Conflict(
            f"{transport.url} has another {key}",
            why=f"{pull.digest_bytes(there)[:12]} there, {pull.digest_bytes(data)[:12]} here",
        )


def _publish(
    store: Store, name: str, transport: Transport, found: Found | None, outgoing: Outgoing
) -> bool:
    """Replace the checkpoint by ours, where it is still the very version that was merged."""
    version = found.checkpoint.version + 1 if found else 1
    data = remote.seal_checkpoint(store, version, outgoing.heads, outgoing.root)
    if not transport.replace(remote.CHECKPOINT, data, found.tag if found else None):
        return False
    crash_point("registry.push-published")
    fresh = remote.read_checkpoint(transport, store.trust)
    if fresh.checkpoint.version == version:
        remote.remember(store, name, fresh)
    return True


def diff(store: Store, name: str, transport: Transport) -> tuple[SyncChange, ...]:
    """Every event that only one side has, in words; changes nothing.

    Raises:
        IntegrityError, Refused: what is there may not be believed.
    """
    try:
        incoming = pull.fetch(store, name, transport, allow_expired=True)
    except NotFound:
        incoming = None
    outgoing = plan(store, transport, incoming.found if incoming else None)
    sides = [("push", _event(store, writer, seq)) for writer, seq in outgoing.events]
    sides += [("pull", signed) for signed, _ in (incoming.events if incoming else ())]
    return tuple(
        SyncChange(
            direction,
            signed.event.time,
            signed.event.who,
            in_words(signed.event.body.model_dump(mode="json", by_alias=True)),
        )
        for direction, signed in sides
    )


def status(store: Store, name: str, transport: Transport) -> SyncStatus:
    """What a push and a pull would move; changes nothing."""
    try:
        incoming = pull.fetch(store, name, transport, allow_expired=True)
    except NotFound:
        incoming = None
    found = incoming.found if incoming else None
    outgoing = plan(store, transport, found)
    new = [m for m, _ in incoming.manifests.values()] if incoming else []
    blobs = pull.missing_blobs(store, new)
    text = "in sync"
    if found is None:
        text = "nothing was pushed there yet"
    elif outgoing.events or (incoming and incoming.events):
        coming = len(incoming.events) if incoming else 0
        text = f"{len(outgoing.events)} events to push, {coming} to pull"
    return SyncStatus(
        remote=name,
        push_events=len(outgoing.events),
        push_manifests=len(outgoing.manifests),
        push_blobs=len(outgoing.blobs),
        push_bytes=outgoing.size_bytes,
        pull_events=len(incoming.events) if incoming else 0,
        pull_manifests=len(new),
        pull_blobs=len(blobs),
        pull_bytes=sum(file.size for file in blobs),
        remote_checkpoint=found.checkpoint.version if found else 0,
        text=text,
    )
