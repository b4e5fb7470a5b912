"""What a remote holds and whether it may be believed: roots, checkpoint, what was seen before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from engine.errors import IntegrityError, NotFound, Refused
from engine.registry import canonical, envelope, trust
from engine.registry.documents import (
    PAYLOAD,
    Checkpoint,
    WriterHead,
    epoch,
    now,
    parse,
    payload_of,
)
from engine.registry.index import read_heads
from engine.registry.layout import FORMAT, MAX_DOCUMENT_BYTES
from engine.registry.log import Head
from engine.registry.sync.transport import Transport
from engine.registry.trust import Trust
from engine.supervise.durable import read_json, write_json_durably

if TYPE_CHECKING:
    from engine.registry.store import Store

CHECKPOINT = "checkpoint.json"
CHECKPOINT_TYPE = PAYLOAD.format("checkpoint")
ABOUT = "registry.json"
_SMALL = 4 << 20

#: A checkpoint older than this is not believed: somebody may be holding back newer ones.
VALID_DAYS = 90
#: Checkpoints may be renewed without a new event so often; a version beyond it is a fast-forward.
RENEWALS = 10_000
#: How far ahead of us another machine's clock may be.
SKEW_S = 24 * 3600.0


@dataclass(frozen=True)
class Found:
    """A remote's checkpoint that passed every check."""

    checkpoint: Checkpoint
    digest: str
    tag: str
    key: str
    """Who signed it."""


def event_key(writer: str, seq: int) -> str:
    """Key of an event."""
    return f"log/{writer}/{seq:016d}.json"


def manifest_key(digest: str) -> str:
    """Key of a manifest."""
    return f"manifests/sha256/{digest}.json"


def blob_key(digest: str) -> str:
    """Key of a blob."""
    return f"blobs/sha256/{digest}"


def read_about(transport: Transport) -> dict[str, str]:
    """The registry that lives at a remote: its id and the fingerprint of its first root.

    Raises:
        NotFound: there is none yet.
        IntegrityError: the description is damaged, or of another format.
    """
    data, _ = transport.get(ABOUT, _SMALL)
    about = canonical.loads(data, f"{transport.url} {ABOUT}")
    if not isinstance(about, dict) or not {"format", "registry", "root"} <= set(about):
        raise IntegrityError(f"{ABOUT} at {transport.url} is refused", why="it names no registry")
    if about["format"] != FORMAT:
        raise IntegrityError(
            f"the registry at {transport.url} has another format", why=str(about["format"])
        )
    return {key: str(about[key]) for key in ("registry", "root")}


def check_same(store: Store, about: dict[str, str], url: str) -> None:
    """Refuse another registry.

    Raises:
        Refused: its id or its first root is another one.
    """
    if about["registry"] != store.id or about["root"] != store.trust.fingerprint:
        raise Refused(
            f"{url} holds another registry",
            why=f"its id is {about['registry'][:12]}, ours {store.id[:12]}; "
            f"its root {about['root'][:12]}, ours {store.trust.fingerprint[:12]}",
            hint="give this registry a prefix of its own, or `modelops-tui remote clone` that one "
            "into another state directory",
        )


def read_roots(transport: Transport, local: list[bytes], pinned: str) -> tuple[Trust, list[bytes]]:
    """The chain of roots at a remote, checked as a continuation of ours.

    Returns:
        The newest trust (ours, where the remote is behind), and its documents.

    Raises:
        IntegrityError: FORK: a version differs; or a root is not rightly signed.
    """
    documents: list[bytes] = []
    while True:
        number = len(documents) + 1
        try:
            data, _ = transport.get(f"trust/{number}.root.json", _SMALL)
        except NotFound:
            break
        if number <= len(local) and local[number - 1] != data:
            raise IntegrityError(
                f"FORK: trust root {number} at {transport.url} is another one than ours",
                why=f"theirs {hashlib.sha256(data).hexdigest()[:12]}, "
                f"ours {hashlib.sha256(local[number - 1]).hexdigest()[:12]}",
                hint="two machines changed the keys without syncing; agree on one, and clone it",
            )
        documents.append(data)
    if len(documents) < len(local):
        documents = list(local)
    return trust.verify_chain(documents, pinned), documents


def read_checkpoint(
    transport: Transport, judge: Trust, *, allow_expired: bool = False, to_replace: bool = False
) -> Found:
    """The checkpoint of a remote: signature, registry, time.

    Args:
        transport: the remote.
        judge: the newest trust.
        allow_expired: believe an old one.
        to_replace: a push reads it to go on from it, even where its key was revoked since.

    Raises:
        NotFound: there is none.
        IntegrityError: forged, of another registry, expired, or from the future.
    """
    data, tag = transport.get(CHECKPOINT, MAX_DOCUMENT_BYTES)
    what = f"the checkpoint of {transport.url}"
    sealed = envelope.parse(data, CHECKPOINT_TYPE, what)
    key = sealed.signatures[0][0]
    if key not in sealed.signers(judge.public_keys()) or not judge.has_role(key, "device"):
        raise IntegrityError(
            f"{what} is refused", why=f"the key {key[:16]} is no device key of the trust root"
        )
    if key in judge.current.revoked and not to_replace:
        raise IntegrityError(
            f"{what} is refused",
            why=f"its key {key[:16]} was revoked: {judge.current.revoked[key].reason}",
            hint="a machine that is still trusted pushes again",
        )
    checkpoint = parse(Checkpoint, sealed.payload, what)
    if checkpoint.registry != judge.current.registry:
        raise IntegrityError(f"{what} is refused", why=f"it belongs to {checkpoint.registry[:12]}")
    if checkpoint.root > judge.current.version:
        raise IntegrityError(
            f"{what} is refused", why=f"it names trust root {checkpoint.root}, which is not there"
        )
    bound = sum(h.seq for h in checkpoint.writers.values()) + checkpoint.root + RENEWALS
    if checkpoint.version > bound:
        raise IntegrityError(
            f"{what} is refused",
            why=f"its version {checkpoint.version} is beyond what its events allow ({bound}): "
            "it would make every honest checkpoint look like a rollback",
        )
    moment = datetime.now(UTC).timestamp()
    if epoch(checkpoint.created) > moment + SKEW_S:
        raise IntegrityError(
            f"{what} is refused",
            why=f"it was made in the future ({checkpoint.created})",
            hint="one of the two clocks is wrong",
        )
    if epoch(checkpoint.expires) < moment and not allow_expired:
        raise IntegrityError(
            f"{what} is refused",
            why=f"it expired at {checkpoint.expires}: newer ones may be held back",
            hint="a push from a trusted machine renews it; --allow-expired reads it all the same",
        )
    return Found(checkpoint, hashlib.sha256(data).hexdigest(), tag, key)


def check_seen(store: Store, name: str, found: Found | None, judge: Trust) -> None:
    """What was seen at a remote only grows.

    Where the key behind what was seen has been revoked since, that memory counts no more: otherwise
    a stolen key could set the numbers so high that nothing honest is ever accepted again.

    Raises:
        IntegrityError: ROLLBACK or FORK, naming both states.
    """
    seen = read_json(store.layout.seen / f"{name}.json")
    if seen is None or seen.get("key") in judge.current.revoked:
        return
    if found is None:
        raise IntegrityError(
            f"ROLLBACK: the checkpoint of {name} is gone",
            why=f"version {seen['version']} was seen there at {seen['time']}",
            hint="the remote was emptied or replaced: restore it, or push to a new prefix",
        )
    new = found.checkpoint
    if new.version < seen["version"]:
        raise IntegrityError(
            f"ROLLBACK: {name} shows an older state than before",
            why=f"checkpoint {new.version} now, {seen['version']} at {seen['time']}",
            hint="somebody restored or holds back data; nothing was changed here",
        )
    if new.version == seen["version"] and found.digest != seen["digest"]:
        raise IntegrityError(
            f"FORK: {name} shows another checkpoint {new.version} than before",
            why=f"{found.digest[:12]} now, {seen['digest'][:12]} at {seen['time']}",
        )
    for writer, head in seen["writers"].items():
        there = new.writers.get(writer)
        if there is None or there.seq < head["seq"]:
            raise IntegrityError(
                f"ROLLBACK: {name} lost events of the writer {writer}",
                why=f"{there.seq if there else 'none'} now, {head['seq']} at {seen['time']}",
            )
        if there.seq == head["seq"] and there.head != head["head"]:
            raise IntegrityError(
                f"FORK: the writer {writer} has another event {there.seq} at {name} than before",
                why=f"{there.head[:12]} now, {head['head'][:12]} at {seen['time']}",
            )


def remember(store: Store, name: str, found: Found) -> None:
    """Keep what was seen, after all of it was taken in."""
    write_json_durably(
        store.layout.seen / f"{name}.json",
        {
            "version": found.checkpoint.version,
            "digest": found.digest,
            "key": found.key,
            "time": now(),
            "writers": {
                writer: {"seq": head.seq, "head": head.head}
                for writer, head in found.checkpoint.writers.items()
            },
        },
    )


def check_prefixes(store: Store, found: Found, url: str) -> dict[str, tuple[int, int]]:
    """Compare every writer's head with ours.

    Returns:
        writer -> (first, last) sequence numbers to fetch.

    Raises:
        IntegrityError: FORK: one writer has two histories.
    """
    wanted = {}
    ours = read_heads(store.db())
    for writer, head in found.checkpoint.writers.items():
        mine = ours.get(writer)
        if mine is None or mine.seq < head.seq:
            wanted[writer] = ((mine.seq if mine else 0) + 1, head.seq)
            continue
        row = (
            store.db()
            .execute("select digest from events where writer=? and seq=?", (writer, head.seq))
            .fetchone()
        )
        if row is None or row[0] != head.head:
            raise fork(url, writer, head.seq, row[0] if row else "nothing", head.head)
    return wanted


def fork(url: str, writer: str, seq: int, ours: str, theirs: str) -> IntegrityError:
    """Two histories of one writer."""
    return IntegrityError(
        f"FORK: the writer {writer} has two histories",
        why=f"event {seq} is {ours[:12]} here and {theirs[:12]} at {url}",
        hint="a state directory was copied and both copies wrote; keep one: "
        "`modelops-tui remote clone` into a new state directory, and publish again what is missing",
    )


def seal_checkpoint(
    store: Store, version: int, heads: Mapping[str, Head], root: int, expires_days: int = VALID_DAYS
) -> bytes:
    """A checkpoint over what was uploaded (not over what came since), signed by this device."""
    expires = datetime.now(UTC) + timedelta(days=expires_days)
    checkpoint = Checkpoint(
        registry=store.id,
        version=version,
        created=now(),
        expires=expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        root=root,
        writers={
            writer: WriterHead(seq=head.seq, head=head.digest or "")
            for writer, head in heads.items()
        },
    )
    return envelope.seal(CHECKPOINT_TYPE, payload_of(checkpoint), [store.device.signer]).to_bytes()
