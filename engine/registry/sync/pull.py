"""Pulling: everything is checked in memory or staging first; a pull that fails changes nothing."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import IntegrityError, ModelOpsError, NotFound, OutOfSpace
from engine.registry.blobs import full_disk
from engine.registry.documents import FileEntry, Manifest, Publish, Tombstone
from engine.registry.index import read_heads
from engine.registry.layout import MAX_DOCUMENT_BYTES, digest_of
from engine.registry.log import EMPTY, SignedEvent, check_link, read_event, write_event
from engine.registry.names import check_paths
from engine.registry.sync import remote
from engine.registry.sync.arrival import RESUME_ABOVE, claim
from engine.registry.sync.remote import Found
from engine.registry.sync.transport import Transport
from engine.registry.trust import Trust, create_only
from engine.supervise.crash import crash_point
from engine.supervise.durable import sync_folder
from engine.types.artifacts import SyncProgress, SyncReport

if TYPE_CHECKING:
    from engine.registry.store import Store

Report = Callable[[SyncProgress], None]
_WORKERS = 8
_TRIES = 3


@dataclass
class Incoming:
    """What a remote has and we have not: checked, and not yet part of the registry."""

    found: Found | None
    judge: Trust
    roots: list[bytes]
    events: list[tuple[SignedEvent, bytes]] = field(default_factory=list)
    manifests: dict[str, tuple[Manifest, bytes]] = field(default_factory=dict)


def fetch(
    store: Store,
    name: str,
    transport: Transport,
    *,
    allow_expired: bool = False,
    to_replace: bool = False,
) -> Incoming:
    """Read and check roots, checkpoint, events and manifests. Nothing here is changed.

    Raises:
        Refused: another registry lives there.
        IntegrityError: ROLLBACK, FORK, forged, expired: with the reason.
        NotFound: nothing is there.
    """
    remote.check_same(store, remote.read_about(transport), transport.url)
    store.db()
    version = store.trust.current.version
    local = [store.layout.root_document(n).read_bytes() for n in range(1, version + 1)]
    judge, roots = remote.read_roots(transport, local, store.trust.fingerprint)
    try:
        found = remote.read_checkpoint(
            transport, judge, allow_expired=allow_expired, to_replace=to_replace
        )
    except NotFound:
        remote.check_seen(store, name, None, judge)
        return Incoming(None, judge, roots)
    remote.check_seen(store, name, found, judge)
    incoming = Incoming(found, judge, roots)
    wanted = remote.check_prefixes(store, found, transport.url)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for writer, (first, last) in sorted(wanted.items()):
            _events(store, transport, incoming, pool, writer, first, last)
        _manifests(store, transport, incoming, pool)
    return incoming


def _events(
    store: Store,
    transport: Transport,
    incoming: Incoming,
    pool: ThreadPoolExecutor,
    writer: str,
    first: int,
    last: int,
) -> None:
    assert incoming.found is not None
    head = read_heads(store.db()).get(writer, EMPTY)
    keys = [remote.event_key(writer, seq) for seq in range(first, last + 1)]
    for seq, data in enumerate(pool.map(lambda key: _small(transport, key), keys), first):
        what = f"event {writer}/{seq} of {transport.url}"
        signed = read_event(data, incoming.judge, what)
        head = check_link(signed, head, writer, what)
        incoming.events.append((signed, data))
    promised = incoming.found.checkpoint.writers[writer].head
    if head.digest != promised:
        raise remote.fork(transport.url, writer, last, head.digest or "nothing", promised)


def _small(transport: Transport, key: str) -> bytes:
    try:
        return transport.get(key, MAX_DOCUMENT_BYTES)[0]
    except NotFound as error:
        raise IntegrityError(
            f"{transport.url} is incomplete", why=f"its checkpoint names {key}, which is missing"
        ) from error


def _manifests(
    store: Store, transport: Transport, incoming: Incoming, pool: ThreadPoolExecutor
) -> None:
    wanted = [
        digest_of(signed.event.body.manifest)
        for signed, _ in incoming.events
        if isinstance(signed.event.body, Publish)
        and not store.layout.manifest(digest_of(signed.event.body.manifest)).exists()
    ]
    keys = [remote.manifest_key(digest) for digest in wanted]
    for digest, data in zip(
        wanted, pool.map(lambda key: _small(transport, key), keys), strict=True
    ):
        manifest, _ = store.check_manifest(data, digest, incoming.judge)
        check_paths(file.path for file in manifest.files)
        incoming.manifests[digest] = (manifest, data)


def missing_blobs(store: Store, manifests: Iterable[Manifest]) -> list[FileEntry]:
    """The blobs of some manifests that are not here, each once."""
    wanted: dict[str, FileEntry] = {}
    for manifest in manifests:
        for file in manifest.files:
            if file.sha256 not in wanted and not store.blobs.has(file.sha256, file.size):
                wanted[file.sha256] = file
    return list(wanted.values())


def download(
    store: Store, transport: Transport, files: list[FileEntry], report: Report | None
) -> int:
    """Fetch blobs: streamed into staging, hashed on the way, then renamed in.

    Returns:
        Bytes that came.

    Raises:
        IntegrityError: a blob is not what was signed.
        OutOfSpace: they do not fit.
    """
    total = sum(file.size for file in files)
    free = shutil.disk_usage(store.layout.blobs).free
    if total > free:
        raise OutOfSpace(
            "the pull does not fit", why=f"{total} bytes to fetch, {free} are free",
            hint="pull only some: --only 'NAME*'; or free space: modelops-tui models gc",
        )  # fmt: skip
    done = 0

    def one(file: FileEntry) -> None:
        mine = 0

        def progress(count: int) -> None:
            nonlocal done, mine
            done += count
            mine += count
            if report:
                report(SyncProgress("download", file.path, done, total, mine, file.size))

        arrived.append((_fetch(store, transport, file.sha256, file.size, progress), file.sha256))

    arrived: list[tuple[os.stat_result, str]] = []
    try:
        with ThreadPoolExecutor(_WORKERS) as pool:
            futures = [pool.submit(one, file) for file in files]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    finally:
        _settle(store, arrived)
    return total


def fetch_blob(
    store: Store,
    transport: Transport,
    digest: str,
    size: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Fetch one blob; a damaged transfer is tried again, a damaged object is refused.

    Raises:
        IntegrityError: what came is not what was signed.
        NotFound: the remote has not got it.
    """
    _settle(store, [(_fetch(store, transport, digest, size, progress), digest)])


def _fetch(
    store: Store,
    transport: Transport,
    digest: str,
    size: int,
    progress: Callable[[int], None] | None,
) -> os.stat_result:
    """Fetch one blob into its place; ``_settle`` must follow before anything names it."""
    partial, held = _partial(store, digest, size)
    counted = 0

    def told(count: int) -> None:
        nonlocal counted
        counted += count
        if progress:
            progress(count)

    problem: ModelOpsError | None = None
    keep = moved = False
    try:
        for _ in range(_TRIES):
            told(-counted)  # what an attempt before this one had is counted again where it counts
            keep = held is not None
            try:
                key = remote.blob_key(digest)
                found = transport.download(key, partial, size, told, resume=keep)
                keep = False
                if found == digest:
                    target = store.layout.blob(digest)
                    os.rename(partial, target)
                    moved = True
                    return os.lstat(target)
                problem = IntegrityError(
                    f"the blob {digest[:12]} of {transport.url} is refused",
                    why=f"its bytes have the sha256 {found[:12]}: it was tampered with or damaged",
                    hint="push it again from a machine that has it",
                )
            except NotFound:
                keep = False
                raise
            except OSError as error:
                keep = False
                raise full_disk(error, store.layout.staging) from error
            except IntegrityError as error:
                keep = False
                problem = error
            except ModelOpsError as error:
                problem = error
            if held is not None and not keep:
                os.ftruncate(held, 0)  # and the claim stays ours
        assert problem is not None
        raise problem
    finally:
        if not keep and not moved:
            partial.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def _partial(store: Store, digest: str, size: int) -> tuple[Path, int | None]:
    """Where a blob arrives; a large one in the same place each time, so that a pull goes on."""
    if size > RESUME_ABOVE:
        kept = store.layout.staging / f"pull-{digest}"
        held = claim(kept)
        if held is not None:
            return kept, held
    return store.layout.staging / f"pull-{secrets.token_hex(8)}", None


def _settle(store: Store, arrived: list[tuple[os.stat_result, str]]) -> None:
    """Make the names of new blobs durable and remember their hashes, once for all of them."""
    if arrived:
        sync_folder(store.layout.blobs)
        store.blobs.cache.put_ours(arrived)


def merge(store: Store, incoming: Incoming, *, partial: set[str]) -> int:
    """Make what was checked part of the registry: roots, manifests, events, index.

    Args:
        store: the registry.
        incoming: from ``fetch``.
        partial: digests of manifests whose blobs are not here.

    Returns:
        How many events were new.
    """
    with store.locked():
        for number, data in enumerate(incoming.roots, 1):
            if not store.layout.root_document(number).exists():
                create_only(store.layout.root_document(number), data)
        folder = store.layout.state / "partial"
        if partial:
            folder.mkdir(exist_ok=True)
        for digest in partial:
            (folder / digest).touch()
        crash_point("registry.pull-roots")
        for digest, (_, data) in incoming.manifests.items():
            create_only(store.layout.manifest(digest), data)
        crash_point("registry.pull-manifests")
        new = 0
        for signed, data in incoming.events:
            if not store.layout.event(signed.event.writer, signed.event.seq).exists():
                new += 1
            write_event(store.layout, signed.event, data)
            crash_point("registry.pull-event")
        store.db()
    return new


def pull(
    store: Store,
    name: str,
    transport: Transport,
    *,
    only: str | None = None,
    dry_run: bool = False,
    allow_expired: bool = False,
    report: Report | None = None,
) -> SyncReport:
    """Take in what a remote has.

    Args:
        store: the registry.
        name: the remote's name: under it is kept what was seen there.
        transport: the remote.
        only: a glob; of other names only the manifests come, and they are marked partial.
        dry_run: check everything and tell, fetch no blob, change nothing.
        allow_expired: believe an expired checkpoint.
        report: told the progress.

    Raises:
        IntegrityError, Refused, NotFound, OutOfSpace: nothing was changed.
    """
    begun = time.monotonic()
    incoming = fetch(store, name, transport, allow_expired=allow_expired)
    living = _living(store, incoming)
    chosen = {d: m for d, m in living.items() if only is None or fnmatch.fnmatch(m.name, only)}
    files = missing_blobs(store, chosen.values())
    size = sum(file.size for file in files)
    left = {d for d, m in living.items() if d not in chosen and missing_blobs(store, [m])}
    names = tuple(sorted(f"{living[d].name}@{living[d].version}" for d in left))
    if not dry_run:
        download(store, transport, files, report)
        merge(store, incoming, partial=left)
        complete(store, chosen)
        if incoming.found is not None:
            remote.remember(store, name, incoming.found)
    return SyncReport(
        remote=name,
        events=len(incoming.events),
        manifests=len(incoming.manifests),
        blobs=len(files),
        size_bytes=size,
        seconds=time.monotonic() - begun,
        dry_run=dry_run,
        partial=names,
    )


def complete(store: Store, chosen: Iterable[str]) -> None:
    """Take the mark of partial off what is whole now."""
    for digest in store.partial() & set(chosen):
        (store.layout.state / "partial" / digest).unlink(missing_ok=True)


def _living(store: Store, incoming: Incoming) -> dict[str, Manifest]:
    """Manifests that are not deleted: the new ones, and those that are partial here."""
    dead = {
        digest_of(signed.event.body.manifest)
        for signed, _ in incoming.events
        if isinstance(signed.event.body, Tombstone)
    }
    dead |= {
        digest_of(row[0])
        for row in store.db().execute("select manifest from artifacts where deleted=1")
    }
    living = {d: m for d, (m, _) in incoming.manifests.items() if d not in dead}
    for digest in store.partial() - dead:
        manifest = store.find_manifest(f"sha256:{digest}")
        if manifest is not None:
            living.setdefault(digest, manifest)
    return living


def digest_bytes(data: bytes) -> str:
    """The sha256 of a document."""
    return hashlib.sha256(data).hexdigest()


def fetcher(store: Store, transport: Transport) -> Callable[[str, int], bool]:
    """How ``fsck`` gets a blob back: ``(digest, size)`` -> True when it is here and right."""

    def fetch_one(digest: str, size: int) -> bool:
        try:
            fetch_blob(store, transport, digest, size)
        except (NotFound, IntegrityError):
            return False
        return True

    return fetch_one
