"""The catalogue of shared adapters: signed by each publisher, in a bucket or a folder.

There is no central authority: a publisher's index is signed by their key, and a person pins that
key by its fingerprint. An index only grows in version; nothing in a catalogue is ever executed.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Conflict, IntegrityError, ModelOpsError, NotFound, Refused
from engine.registry import content, envelope
from engine.registry.documents import (
    PAYLOAD,
    Digest,
    FileEntry,
    epoch,
    now,
    parse,
    payload_of,
)
from engine.registry.envelope import key_id
from engine.registry.keys import fingerprint
from engine.registry.layout import MAX_DOCUMENT_BYTES
from engine.registry.market_index import Base, Entry, Index
from engine.registry.materialize import materialize
from engine.registry.names import check_paths
from engine.registry.publish import Wanted, publish_entries
from engine.registry.sync.transport import Transport
from engine.supervise.durable import read_json, write_json_durably
from engine.types.artifacts import ArtifactView, MarketEntry

if TYPE_CHECKING:
    from engine.registry import Registry

INDEX_TYPE = PAYLOAD.format("market")
_VALID_DAYS = 365
_ROUNDS = 20
_FACTS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
_ALLOWED_TYPES = ("application/vnd.safetensors", "application/json", "text/markdown", "text/plain")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shelf:
    """A publisher's index that passed every check."""

    index: Index
    key: str
    tag: str
    digest: str


def _index_key(key: str) -> str:
    return f"market/publishers/{key}.json"


def _blob_key(digest: Digest) -> str:
    return f"market/blobs/{digest}"


class Market:
    """One catalogue, seen from one registry, or (to look only) from none."""

    def __init__(self, registry: Registry | None, transport: Transport) -> None:
        self._registry = registry
        self.transport = transport

    @property
    def registry(self) -> Registry:
        """The registry that pins and installs (NotFound: this one only looks)."""
        if self._registry is None:
            raise NotFound("there is no registry yet", hint="the first publication makes it")
        return self._registry

    @property
    def _pins(self) -> Path:
        return self.registry.layout.state / "market-pins.json"

    # -- pins -------------------------------------------------------------------------------------

    def pins(self) -> dict[str, str]:
        """Key id -> who the person says it is."""
        if self._registry is None:
            return {}
        return {str(key): str(owner) for key, owner in (read_json(self._pins) or {}).items()}

    def pin(self, prefix: str, owner: str = "") -> str:
        """Trust a publisher by the fingerprint one learnt by another way; returns the key id.

        Raises:
            BadInput: fewer than 16 digits. NotFound: no such publisher here.
        """
        wanted = prefix.replace(" ", "").lower()
        if len(wanted) < 16:
            raise BadInput("a fingerprint has at least 16 digits")
        found = [shelf for shelf in self.shelves() if shelf.key.startswith(wanted)]
        if len(found) != 1:
            raise NotFound(f"{len(found)} publishers have the fingerprint {prefix}")
        write_json_durably(self._pins, {**self.pins(), found[0].key: owner or found[0].index.owner})
        return found[0].key

    def unpin(self, prefix: str) -> None:
        """Trust a publisher no more."""
        wanted = prefix.replace(" ", "").lower()
        kept = {k: v for k, v in self.pins().items() if not k.startswith(wanted)}
        write_json_durably(self._pins, kept)

    # -- looking ----------------------------------------------------------------------------------

    def shelves(self) -> Iterator[Shelf]:
        """Every publisher's index.

        Raises:
            IntegrityError: one is forged, rolled back or expired.
        """
        for key, _ in self.transport.list("market/publishers"):
            name = key.removeprefix("market/publishers/").removesuffix(".json")
            if len(name) == 64 and key == _index_key(name):
                yield self.shelf(name)

    def shelf(self, key: str) -> Shelf:
        """One publisher's index, checked.

        Raises:
            NotFound: there is none.
            IntegrityError: forged, rolled back or expired.
        """
        data, tag = self.transport.get(_index_key(key), MAX_DOCUMENT_BYTES)
        what = f"the catalogue of the publisher {key[:16]}"
        sealed = envelope.parse(data, INDEX_TYPE, what)
        index = parse(Index, sealed.payload, what)
        public = _public(index, what)
        if key_id(public) != key or key not in sealed.signers({key: public}):
            raise IntegrityError(f"{what} is refused", why="that publisher's key did not sign it")
        if epoch(index.expires) < datetime.now(UTC).timestamp():
            raise IntegrityError(f"{what} is refused", why=f"it expired at {index.expires}")
        digest = envelope.key_id(data)
        self._check_seen(key, index, digest)
        names = [(entry.name, entry.version) for entry in index.entries]
        if len(set(names)) != len(names):
            raise IntegrityError(f"{what} is refused", why="it lists one version twice")
        for entry in index.entries:
            check_paths(file.path for file in entry.files)
        return Shelf(index, key, tag, digest)

    def _seen_path(self, key: str) -> Path:
        return self.registry.layout.seen / f"market-{key}.json"

    def _check_seen(self, key: str, index: Index, digest: str) -> None:
        if self._registry is None:
            return  # whoever has pinned and installed nothing has nothing to be rolled back
        seen = read_json(self._seen_path(key))
        if seen is not None:
            if index.version < seen["version"]:
                raise IntegrityError(
                    f"ROLLBACK: the publisher {key[:16]} shows an older catalogue than before",
                    why=f"version {index.version} now, {seen['version']} before",
                )
            if index.version == seen["version"] and digest != seen["digest"]:
                raise IntegrityError(
                    f"FORK: the publisher {key[:16]} shows another catalogue {index.version}",
                    why=f"{digest[:12]} now, {seen['digest'][:12]} before",
                )
        write_json_durably(self._seen_path(key), {"version": index.version, "digest": digest})

    def browse(self, text: str = "", base: str | None = None) -> tuple[MarketEntry, ...]:
        """What is shared, newest first.

        Args:
            text: words that must all occur in name, summary, tags or base.
            base: only for this base model.
        """
        pins = self.pins()
        words = text.lower().split()
        found = []
        for shelf in self.shelves():
            for entry in shelf.index.entries:
                about = f"{entry.name} {entry.summary} {' '.join(entry.tags)} {entry.base.name}"
                if all(word in about.lower() for word in words) and base in (None, entry.base.name):
                    found.append(self._view(shelf, entry, pins))
        return tuple(sorted(found, key=lambda e: e.created, reverse=True))

    def _view(self, shelf: Shelf, entry: Entry, pins: dict[str, str]) -> MarketEntry:
        return MarketEntry(
            name=entry.name,
            version=entry.version,
            publisher=pins.get(shelf.key, shelf.index.owner),
            fingerprint=fingerprint(shelf.key),
            pinned=shelf.key in pins,
            base=entry.base.name,
            license=entry.license,
            size_bytes=sum(file.size for file in entry.files),
            summary=entry.summary,
            manifest=entry.manifest,
            created=entry.created,
            tags=tuple(entry.tags),
            installed=self._installed(shelf, entry),
        )

    def _installed(self, shelf: Shelf, entry: Entry) -> bool:
        if self._registry is None:
            return False
        found = self._registry.db().execute(
            "select 1 from keys where key=?", (_install_key(shelf.key, entry),)
        )
        return found.fetchone() is not None

    # -- publishing -------------------------------------------------------------------------------

    def publish(self, ref: str, *, summary: str = "") -> MarketEntry:
        """Share an adapter of this registry, signed with the device key.

        Raises:
            Refused: it is no adapter, has pickles, other files than data, or no licence.
            Conflict: that version is shared already with other content.
        """
        registry = self.registry
        view = registry.resolve(ref)
        folder = materialize(registry, registry.row(view.manifest))
        manifest = registry.manifest(view.manifest)
        _check_shareable(manifest.type, manifest.files, manifest.license, manifest.scan.pickles)
        entry = Entry(
            name=view.name,
            version=view.version,
            base=_base_of(registry, view, folder),
            license=manifest.license or "",
            summary=summary or manifest.card.partition("\n")[0].lstrip("# ")[:200],
            card=manifest.card,
            files=list(manifest.files),
            tags=list(manifest.tags),
            created=manifest.created,
            manifest=view.manifest,
            metrics=dict(manifest.metrics),
        )
        there = dict(self.transport.list("market/blobs"))
        for file in manifest.files:
            if there.get(_blob_key(file.sha256)) != file.size:
                path = registry.blobs.require(file.sha256, file.size, file.path)
                self.transport.upload(_blob_key(file.sha256), path, lambda count: None)
        shelf = self._replace(entry)
        return self._view(shelf, entry, self.pins())

    def _replace(self, entry: Entry) -> Shelf:
        device = self.registry.device
        for _ in range(_ROUNDS):
            try:
                old: Shelf | None = self.shelf(device.id)
            except NotFound:
                old = None
            entries = list(old.index.entries) if old else []
            same = [e for e in entries if (e.name, e.version) == (entry.name, entry.version)]
            if same and same[0].manifest != entry.manifest:
                raise Conflict(f"{entry.name}@{entry.version} is shared already, with other files")
            if same and old is not None:
                return old
            index = Index(
                public=base64.b64encode(device.public).decode(),
                owner=self.registry.trust.current.keys[device.id].owner
                if device.id in self.registry.trust.current.keys
                else "",
                version=old.index.version + 1 if old else 1,
                created=now(),
                expires=(datetime.now(UTC) + timedelta(days=_VALID_DAYS)).strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                ),
                entries=[*entries, entry],
            )
            data = envelope.seal(INDEX_TYPE, payload_of(index), [device.signer]).to_bytes()
            if self.transport.replace(_index_key(device.id), data, old.tag if old else None):
                return self.shelf(device.id)
        raise Conflict("the catalogue changed all the time", hint="share it again")

    # -- installing -------------------------------------------------------------------------------

    def find(self, ref: str) -> tuple[Shelf, Entry]:
        """``name``, ``name@version`` or ``fingerprint/name@version``; the newest where several.

        Raises:
            NotFound: nobody shares it. Conflict: several publishers do.
        """
        who, _, rest = ref.rpartition("/")
        name, _, version = rest.partition("@")
        prefix = who.replace(" ", "").lower()
        found = [
            (shelf, entry)
            for shelf in self.shelves()
            if shelf.key.startswith(prefix)
            for entry in shelf.index.entries
            if entry.name == name and version in ("", entry.version)
        ]
        if not found:
            raise NotFound(f"nobody shares {ref!r}", hint="modelops-tui market search WORDS")
        if len({shelf.key for shelf, _ in found}) > 1:
            raise Conflict(
                f"several publishers share {rest!r}",
                why=", ".join(sorted({fingerprint(shelf.key) for shelf, _ in found})),
                hint="put the fingerprint before it: FINGERPRINT/NAME",
            )
        return max(found, key=lambda pair: pair[1].created)

    def check(self, ref: str, base: Path | None) -> list[str]:
        """Why an adapter can't go on a base model; empty when it can.

        Args:
            ref: the adapter.
            base: folder of the base model (with ``config.json``), where it is here.
        """
        _, entry = self.find(ref)
        return compatibility(entry.base, base)

    def install(
        self,
        ref: str,
        *,
        base: Path | None,
        base_manifest: str | None = None,
        name: str | None = None,
        report: Report | None = None,
    ) -> ArtifactView:
        """Fetch, check and publish an adapter here.

        Args:
            ref: what to install.
            base: folder of the base model it is to go on.
            base_manifest: its manifest id, where it is an artifact.
            name: what to call it here.
            report: told ``(file, bytes done, bytes in all)``.

        Raises:
            Refused: the publisher is not pinned, the base does not fit, or a file is no plain data.
            IntegrityError: a file is not what was signed.
        """
        shelf, entry = self.find(ref)
        if shelf.key not in self.pins():
            raise Refused(
                f"the publisher of {entry.name} is not pinned",
                why=f"its fingerprint is {fingerprint(shelf.key)}, it calls itself "
                f"{shelf.index.owner!r}",
                hint="compare the fingerprint with its owner, then: modelops-tui market pin "
                f"CATALOGUE {shelf.key[:32]}",
            )
        problems = compatibility(entry.base, base)
        if problems:
            raise Refused(f"{entry.name} does not fit this base", why="; ".join(problems))
        _check_shareable("adapter", entry.files, entry.license, [])
        scratch = self.registry.layout.staging / f"market-{secrets.token_hex(6)}"
        scratch.mkdir()
        try:
            return self._take(shelf, entry, scratch, base_manifest, name, report)
        finally:
            shutil.rmtree(scratch)

    def _take(
        self,
        shelf: Shelf,
        entry: Entry,
        scratch: Path,
        base_manifest: str | None,
        name: str | None,
        report: Report | None,
    ) -> ArtifactView:
        total, done = sum(file.size for file in entry.files), 0
        found = []
        for file in entry.files:
            path = scratch / file.sha256
            digest = self.transport.download(
                _blob_key(file.sha256), path, file.size, lambda count: None
            )
            if digest != file.sha256:
                raise IntegrityError(
                    f"{file.path} of {entry.name} is refused",
                    why="its bytes are not what the publisher signed",
                )
            found.append((file.path, content.look(path, file.path)))
            done += file.size
            if report:
                report(file.path, done, total)
        scan = content.scan(found, allow_pickles=False)
        for file in entry.files:
            if (scratch / file.sha256).exists():
                self.registry.blobs.take(scratch / file.sha256, move=True)
        kinds = dict(found)
        files = [f.model_copy(update={"media_type": kinds[f.path].media_type}) for f in entry.files]
        wanted = Wanted(
            name=name or entry.name,
            artifact_type="adapter",
            parents=(("base", base_manifest),) if base_manifest else (),
            metrics={key: float(value) for key, value in entry.metrics.items()},
            card=entry.card,
            license=entry.license,
            run={
                "publisher": shelf.key,
                "publisher_name": self.pins()[shelf.key],
                "origin": entry.manifest,
                "base": entry.base.name,
            },
            tags=(*entry.tags, "market"),
            key=_install_key(shelf.key, entry),
        )
        wanted.check()
        return self.registry.resolve(publish_entries(self.registry, wanted, files, scan))

    def verify(self, ref: str) -> tuple[str, ...]:
        """Read every file of a shared adapter again; returns the problems."""
        _, entry = self.find(ref)
        problems = []
        scratch = self.registry.layout.staging / f"market-{secrets.token_hex(6)}"
        try:
            for file in entry.files:
                try:
                    found = self.transport.download(
                        _blob_key(file.sha256), scratch, file.size, lambda count: None
                    )
                except ModelOpsError as error:
                    problems.append(f"{file.path}: {error}")
                    continue
                if found != file.sha256:
                    problems.append(f"{file.path}: its bytes are not what was signed")
        finally:
            scratch.unlink(missing_ok=True)
        return tuple(problems)


def _install_key(publisher: str, entry: Entry) -> str:
    return f"market/{publisher}/{entry.name}/{entry.version}/{entry.manifest}"


def _public(index: Index, what: str) -> bytes:
    try:
        public = base64.b64decode(index.public, validate=True)
    except ValueError as error:
        raise IntegrityError(f"{what} is refused", why=f"base64: {error}") from error
    if len(public) != 32:
        raise IntegrityError(f"{what} is refused", why="its public key is none")
    return public


def _check_shareable(
    kind: str, files: list[FileEntry], license_: str | None, pickles: list[str]
) -> None:
    if kind != "adapter":
        raise Refused("only adapters are shared in a catalogue", why=f"this is a {kind}")
    odd = [file.path for file in files if file.media_type not in _ALLOWED_TYPES]
    if pickles or odd:
        raise Refused(
            "the adapter is refused",
            why=f"it holds more than plain data: {', '.join([*pickles, *odd][:5])}",
        )
    if not license_:
        raise Refused("the adapter has no licence", hint="register it again with a licence")


def _base_of(registry: Registry, view: ArtifactView, folder: Path) -> Base:
    for rel, parent in view.parents:
        if rel == "base":
            try:
                row = registry.row(parent)
                config = materialize(registry, row) / "config.json"
                return Base(name=row["name"], facts=_facts(config))
            except (NotFound, FileNotFoundError):
                break
    try:
        config_ = json.loads((folder / "adapter_config.json").read_bytes())
        name = str(config_.get("base_model_name_or_path") or "unknown")
    except (OSError, ValueError, AttributeError):
        name = "unknown"
    return Base(name=name[:4096])


def _facts(config: Path) -> dict[str, str]:
    try:
        found: Any = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return {}
    return {key: str(found[key]) for key in _FACTS if isinstance(found, dict) and key in found}


def compatibility(wanted: Base, base: Path | None) -> list[str]:
    """Why an adapter can't go on a base; empty when it can (or when nothing is known of it)."""
    if base is None:
        return [f"its base {wanted.name} is not here; name one with --base"]
    found = _facts(base / "config.json")
    return [
        f"{key} is {found.get(key, 'not given')}, the adapter was made for {value}"
        for key, value in wanted.facts.items()
        if found.get(key) != value
    ]
