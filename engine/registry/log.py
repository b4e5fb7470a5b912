"""The event log: one signed, hash-chained file an event, a folder a writer.

It is the source of truth for everything that changes. Files are created once (``link()``), never
replaced; whoever appends holds the registry's lock.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.errors import IntegrityError
from engine.registry import envelope
from engine.registry.documents import PAYLOAD, Body, Event, now, parse, payload_of
from engine.registry.keys import SigningPair
from engine.registry.layout import Layout
from engine.registry.trust import Trust, create_only
from engine.supervise.durable import read_json, write_json_durably

EVENT_TYPE = PAYLOAD.format("event")

#: No honest log gets near; a clock above it would keep everybody else from writing (fast-forward).
MAX_CLOCK = 2**48


@dataclass(frozen=True)
class SignedEvent:
    """An event with what its file says about it."""

    event: Event
    digest: str
    author: str
    """Key id of the first signature: the device whose log this is."""
    signers: frozenset[str]
    """Trusted keys whose signature is right."""

    @property
    def order(self) -> tuple[int, str, int]:
        """The total order of the fold: the same for everybody, whatever arrived first."""
        return self.event.clock, self.event.writer, self.event.seq


@dataclass(frozen=True)
class Head:
    """The end of a writer's log."""

    seq: int
    digest: str | None
    author: str | None = None


EMPTY = Head(0, None)


def read_event(data: bytes, trust: Trust, what: str) -> SignedEvent:
    """Parse and check one event's file: form, signatures, role.

    Raises:
        IntegrityError: with the reason.
    """
    sealed = envelope.parse(data, EVENT_TYPE, what)
    event = parse(Event, sealed.payload, what)
    if event.registry != trust.current.registry:
        raise IntegrityError(
            f"{what} is refused", why=f"it belongs to the registry {event.registry[:12]}"
        )
    author = sealed.signatures[0][0]
    signers = sealed.signers(trust.public_keys())
    reason = trust.refuse_signer(event, signers, author)
    if reason and event.root <= len(trust.roots) and not trust.believed(author, event):
        # a revoked key's later events stay in the log, and count for nothing
        return SignedEvent(event, hashlib.sha256(data).hexdigest(), author, frozenset())
    if reason:
        raise IntegrityError(f"{what} is refused", why=reason)
    if event.clock > MAX_CLOCK:
        raise IntegrityError(
            f"{what} is refused",
            why=f"its clock {event.clock} is beyond {MAX_CLOCK}: it would lock everybody else out",
            hint="revoke the key with the last good sequence number: modelops-tui keys revoke",
        )
    believed = frozenset(key for key in signers if trust.believed(key, event))
    return SignedEvent(event, hashlib.sha256(data).hexdigest(), author, believed)


def check_link(signed: SignedEvent, head: Head, writer: str, what: str) -> Head:
    """The head after ``signed``, which must follow ``head`` without a gap.

    Raises:
        IntegrityError: another writer's event, a gap, a broken chain, or a second key.
    """
    event = signed.event
    reason = ""
    if event.writer != writer:
        reason = f"it belongs to the writer {event.writer}"
    elif event.seq != head.seq + 1:
        reason = f"its sequence number is {event.seq}, {head.seq + 1} was due"
    elif event.prev != head.digest:
        reason = f"it does not follow event {head.seq}: the chain of hashes is broken"
    elif head.author not in (None, signed.author):
        reason = "another key writes this log: a writer belongs to one device"
    if reason:
        raise IntegrityError(f"{what} is refused", why=reason)
    return Head(event.seq, signed.digest, signed.author)


def writers(layout: Layout) -> list[str]:
    """Every writer that has a log here."""
    return sorted(entry.name for entry in layout.log.iterdir() if entry.is_dir())


def last_seq(layout: Layout, writer: str, known: int) -> int:
    """The newest sequence number of a writer, found by looking on from ``known``."""
    seq = known
    while layout.event(writer, seq + 1).exists():
        seq += 1
    return seq


def read_log(layout: Layout, trust: Trust, writer: str, head: Head) -> Iterator[SignedEvent]:
    """The checked events of a writer after ``head``."""
    while True:
        path = layout.event(writer, head.seq + 1)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        what = f"event {writer}/{head.seq + 1}"
        signed = read_event(data, trust, what)
        head = check_link(signed, head, writer, what)
        yield signed


def seal_event(
    trust: Trust,
    writer: str,
    head: Head,
    clock: int,
    body: Body,
    device: SigningPair,
    cosigners: Sequence[SigningPair] = (),
) -> tuple[SignedEvent, bytes]:
    """The next event of this writer, signed by the device and by whoever must agree."""
    event = Event(
        registry=trust.current.registry,
        writer=writer,
        seq=head.seq + 1,
        prev=head.digest,
        clock=clock,
        root=trust.current.version,
        time=now(),
        who=who(),
        body=body,
    )
    data = envelope.seal(
        EVENT_TYPE, payload_of(event), [device.signer, *(key.signer for key in cosigners)]
    ).to_bytes()
    signed = SignedEvent(
        event,
        hashlib.sha256(data).hexdigest(),
        device.id,
        frozenset({device.id, *(key.id for key in cosigners)}),
    )
    return signed, data


def write_event(layout: Layout, event: Event, data: bytes) -> None:
    """Put an event's file into its log, create-only and durable."""
    path = layout.event(event.writer, event.seq)
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
        from engine.supervise.durable import sync_folder

        sync_folder(layout.log)
    create_only(path, data)


def who() -> str:
    """``user@host``: a note for people, no proof of anything."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:256]


def own_writer(layout: Layout, device: SigningPair) -> str:
    """The id under which this very folder writes.

    A copied, restored or cloned folder must not go on under the old id (two histories would fork),
    so the id is bound to the folder's inode and to the device key; elsewhere a new one is taken.
    """
    status = layout.log.stat()
    place = {"device": status.st_dev, "inode": status.st_ino, "key": device.id}
    kept = read_json(layout.writer)
    if kept is not None and kept.get("place") == place and isinstance(kept.get("writer"), str):
        return str(kept["writer"])
    writer = secrets.token_hex(8)
    write_json_durably(layout.writer, {"writer": writer, "place": place})
    return writer


def event_json(signed: SignedEvent) -> str:
    """The event as the index keeps it."""
    return json.dumps(signed.event.model_dump(mode="json", by_alias=True), ensure_ascii=False)
