"""The registry of one state directory: opening it, its lock, its index, and committing events.

What can be done with it is in the modules beside it; ``engine.registry.Registry`` joins them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.errors import IntegrityError, NotFound
from engine.paths import StatePaths
from engine.registry import canonical, envelope, rotation, trust
from engine.registry.blobs import Blobs, room
from engine.registry.documents import PAYLOAD, Body, Manifest, parse
from engine.registry.index import Index, read_heads
from engine.registry.keys import SigningPair, device_key
from engine.registry.layout import FORMAT, MAX_DOCUMENT_BYTES, Layout, digest_of
from engine.registry.log import EMPTY, SignedEvent, own_writer, seal_event, who, write_event
from engine.registry.trust import Trust, create_only
from engine.supervise.crash import crash_point

MANIFEST_TYPE = PAYLOAD.format("manifest")


class Store:
    """An open registry. Objects are cheap; each holds one connection to the index."""

    def __init__(self, paths: StatePaths, layout: Layout, registry_id: str, pinned: str) -> None:
        self.paths = paths
        self.layout = layout
        self.id = registry_id
        self.pinned = pinned
        self.trust = trust.load(layout, pinned)
        self.device: SigningPair = device_key(layout.keys)
        self.blobs = Blobs(layout)
        self.index = Index(layout, self.find_manifest)
        self._db: sqlite3.Connection | None = None
        self._held = 0

    # -- documents --------------------------------------------------------------------------------

    def read_manifest(self, manifest_id: str) -> tuple[Manifest, envelope.Envelope]:
        """A manifest whose bytes and signature are right.

        Raises:
            NotFound: it is not here.
            IntegrityError: it is not what its id says, or no trusted device signed it.
        """
        digest = digest_of(manifest_id)
        try:
            data = self.layout.manifest(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"the manifest {manifest_id[:19]}… is not in this registry") from error
        return self.check_manifest(data, digest)

    def check_manifest(
        self, data: bytes, digest: str, judge: Trust | None = None, of: str | None = None
    ) -> tuple[Manifest, envelope.Envelope]:
        """Check a manifest's bytes against its id, its signature and its form.

        Args:
            data: the file.
            digest: what its sha256 must be.
            judge: the trust that decides (ours by default).
            of: the registry it must belong to (ours by default).

        Raises:
            IntegrityError: with the reason.
        """
        judge = judge or self.trust
        what = f"manifest {digest[:12]}…"
        if len(data) > MAX_DOCUMENT_BYTES:
            raise IntegrityError(f"{what} is refused", why=f"it has {len(data)} bytes")
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise IntegrityError(
                f"{what} is refused",
                why=f"its sha256 is {found[:12]}…: it was changed or swapped",
                hint="modelops-tui models fsck --repair-from REMOTE",
            )
        sealed = envelope.parse(data, MANIFEST_TYPE, what)
        signers = sealed.signers(judge.public_keys())
        if sealed.signatures[0][0] not in signers:
            raise IntegrityError(
                f"{what} is refused",
                why=f"the key {sealed.signatures[0][0][:16]} is not in the trust root, or its "
                "signature is wrong",
            )
        manifest = parse(Manifest, sealed.payload, what)
        if manifest.registry != (of or self.id):
            raise IntegrityError(
                f"{what} is refused", why=f"it belongs to the registry {manifest.registry[:12]}"
            )
        return manifest, sealed

    def find_manifest(self, manifest_id: str) -> Manifest | None:
        """A checked manifest, or None where the file is missing (a partial pull)."""
        try:
            return self.read_manifest(manifest_id)[0]
        except NotFound:
            return None

    def partial(self) -> set[str]:
        """Digests of the manifests that were pulled in part: some of their blobs are elsewhere."""
        folder = self.layout.state / "partial"
        return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()

    # -- the lock and the index -------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry's lock: one writer at a time, processes and threads alike."""
        if self._held:
            # this object holds it already
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
            return
        fd = os.open(self.layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._held = 1
            with room(self.layout.root):
                yield
        finally:
            self._held = 0
            os.close(fd)

    def db(self) -> sqlite3.Connection:
        """The index, brought up to date with the log."""
        self._reload_trust()
        if self._db is None or not self.layout.index.exists():
            self._open_index()
        assert self._db is not None
        if self.index.stale(self._db, self.trust):
            with self.locked():
                self._reload_trust()
                self.index.catch_up(self._db, self.trust)
        return self._db

    def _open_index(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if not self.index.usable():
            with self.locked():
                if not self.index.usable():
                    self.index.create()
        self._db = self.index.connect()

    def rebuild_index(self) -> None:
        """Throw the index away and fold the whole log again."""
        with self.locked():
            if self._db is not None:
                self._db.close()
                self._db = None
            self.index.create()
            self._db = self.index.connect()
            self._reload_trust(force=True)
            self.index.catch_up(self._db, self.trust)

    def _reload_trust(self, *, force: bool = False) -> None:
        if force or self.layout.root_document(self.trust.current.version + 1).exists():
            self.trust = trust.load(self.layout, self.pinned)
            # another process may have rotated it
            self.device = device_key(self.layout.keys)

    def close(self) -> None:
        """Close the index's connection."""
        if self._db is not None:
            self._db.close()
            self._db = None

    # -- writing ----------------------------------------------------------------------------------

    @property
    def writer(self) -> str:
        """The id under which this folder and device write."""
        return own_writer(self.layout, self.device)

    def next_clock(self, db: sqlite3.Connection) -> int:
        """Above every event that counts."""
        row = db.execute(
            "select clock from events where verdict not like 'refused: its key%' "
            "order by clock desc limit 1"
        ).fetchone()
        return 1 if row is None else int(row[0]) + 1

    def commit(self, body: Body, cosigners: Sequence[SigningPair] = ()) -> SignedEvent:
        """Sign an event, write it, fold it. The caller holds the lock and has checked it may be.

        Raises:
            Refused: this device's key is not (or no longer) trusted here.
        """
        db = self.db()
        if body.type != "keys":
            rotation.finish(self)
        writer = self.writer
        head = read_heads(db).get(writer, EMPTY)
        signed, data = seal_event(
            self.trust, writer, head, self.next_clock(db), body, self.device, cosigners
        )
        reason = self.trust.refuse_signer(signed.event, set(signed.signers), self.device.id)
        if reason:
            from engine.errors import Refused

            raise Refused(
                "this machine may not write to the registry",
                why=reason,
                hint="its holder adds this device: modelops-tui keys add PUBLIC "
                "--owner NAME (`modelops-tui keys show` prints PUBLIC here)",
            )
        crash_point("registry.before-event")
        write_event(self.layout, signed.event, data)
        crash_point("registry.event-written")
        self.index.add(db, self.trust, [signed], refold=False)
        crash_point("registry.indexed")
        return signed

    def verdict(self, signed: SignedEvent) -> str:
        """What the fold said about an event."""
        where = (signed.event.writer, signed.event.seq)
        found = self.db().execute("select verdict from events where writer=? and seq=?", where)
        return str(found.fetchone()[0])


def open_store(paths: StatePaths, kind: type[Store] = Store, *, create: bool = True) -> Store:
    """Open the registry of a state directory, or make an empty one.

    Args:
        paths: the state directory.
        kind: the class to make.
        create: make a registry (and a device key) where there is none.

    Raises:
        NotFound: there is none and ``create`` is False.
        IntegrityError: its trust root or its description is damaged.
    """
    layout = Layout.of(paths)
    if not layout.about.exists():
        if not create:
            raise NotFound("there is no registry yet", hint="it is made by the first publication")
        paths.ensure()
        _create(layout)
    about = canonical.loads(layout.about.read_bytes(), str(layout.about))
    if not isinstance(about, dict) or not {"format", "registry", "root"} <= set(about):
        raise IntegrityError(f"{layout.about} is damaged", why="it does not name the registry")
    if about["format"] != FORMAT:
        raise IntegrityError(
            "this registry has another format",
            why=f"its format is {about['format']}, this program reads {FORMAT}",
            hint="use the version of this program that made it, or a newer one",
        )
    opened = kind(paths, layout, str(about["registry"]), str(about["root"]))
    first = opened.trust.roots[0]
    if (about["registry"], about.get("created")) != (first.registry, first.created):
        raise IntegrityError(f"{layout.about} is damaged", why="its first root says otherwise")
    if rotation.waiting(opened) is not None:
        with opened.locked():
            rotation.finish(opened)
    return opened


def _create(layout: Layout) -> None:
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if layout.about.exists():
            return
        for folder in layout.folders():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        from engine.registry.modelsig import attest_key

        device = device_key(layout.keys)
        registry = secrets.token_hex(16)
        p256 = attest_key(layout.keys)
        first = layout.root_document(1)
        first.unlink(missing_ok=True)  # an interrupted creation left it; nothing refers to it
        data = trust.first_root(registry, device.public, who(), p256, device.seed).to_bytes()
        create_only(first, data)
        describe(layout, trust.verify_chain([data], None))
    finally:
        os.close(fd)


def describe(layout: Layout, judge: Trust) -> None:
    """Write ``registry.json``: the last act of creating (or cloning) a registry."""
    first = judge.roots[0]
    about = {
        "format": FORMAT,
        "registry": first.registry,
        "root": judge.fingerprint,
        "created": first.created,
    }
    create_only(layout.about, canonical.dumps(about))


def view_folder(layout: Layout, digest: str) -> Path:
    """Where an artifact's folder of links is."""
    return layout.views / digest
