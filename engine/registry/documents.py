"""The signed documents: manifests, events, roots, checkpoints; pydantic models, frozen and strict.

What their bytes must look like is in ``canonical``; who may sign them is in ``trust``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from engine.errors import IntegrityError
from engine.registry import canonical
from engine.registry.layout import MAX_FILES, MAX_INTEGER
from engine.registry.names import NAME, TAG

PAYLOAD = "application/vnd.modelops.{}+json"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ManifestId = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RegistryId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
WriterId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Time = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$", max_length=27)
]
Name = Annotated[str, StringConstraints(pattern=NAME.pattern, max_length=128)]
Tag = Annotated[str, StringConstraints(pattern=TAG.pattern, max_length=64)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Text = Annotated[str, StringConstraints(max_length=4096)]
Decimal = Annotated[
    str, StringConstraints(pattern=r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$", max_length=40)
]

ArtifactType = Literal[
    "dataset", "base", "adapter", "model", "quantized", "index", "report", "recipe"
]


class Document(BaseModel):
    """Base of every signed document: unknown fields and loose types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


T = TypeVar("T", bound=Document)


class FileEntry(Document):
    """One file of an artifact."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    sha256: Digest
    size: Count
    media_type: Annotated[str, StringConstraints(max_length=128)] = "application/octet-stream"


class Parent(Document):
    """An edge of the lineage: what this artifact was made from."""

    manifest: ManifestId
    rel: Word
    """base, trained_on, merged_from, quantized_from, evaluated_by, registered_from, ..."""


class Scan(Document):
    """What the look at the files found: kinds by content, and every pickle."""

    verdict: Literal["clean", "pickles"]
    pickles: list[str] = []
    """Paths of pickle files that were let in by the flag; such artifacts never reach prod."""
    scanner: Text = ""


class Manifest(Document):
    """What an artifact is. Its id is the sha256 of the signed envelope's file."""

    schema_: Literal["modelops.manifest/1"] = Field(
        default="modelops.manifest/1", validation_alias="schema", serialization_alias="schema"
    )
    registry: RegistryId
    name: Name
    version: Tag
    type: ArtifactType
    created: Time
    files: Annotated[list[FileEntry], Field(max_length=MAX_FILES)]
    parents: Annotated[list[Parent], Field(max_length=1024)] = []
    recipe: Digest | None = None
    run: dict[str, Text] = {}
    metrics: dict[Annotated[str, StringConstraints(max_length=128)], Decimal] = {}
    card: Annotated[str, StringConstraints(max_length=1 << 20)] = ""
    license: Annotated[str, StringConstraints(max_length=256)] | None = None
    scan: Scan
    sbom: Digest | None = None
    """sha256 of the CycloneDX document kept in ``attest/``."""
    tags: Annotated[list[Tag], Field(max_length=256)] = []

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


class Publish(Document):
    """A manifest enters the registry."""

    type: Literal["publish"] = "publish"
    manifest: ManifestId
    name: Name
    version: Tag
    key: Annotated[str, StringConstraints(max_length=512)] | None = None
    hidden: bool = False


class Promote(Document):
    """A stage of a name moves to a manifest, from what the writer saw there."""

    type: Literal["promote"] = "promote"
    name: Name
    stage: Tag
    manifest: ManifestId
    before: ManifestId | None
    note: Text = ""


class Demote(Document):
    """A stage of a name is emptied."""

    type: Literal["demote"] = "demote"
    name: Name
    stage: Tag
    before: ManifestId
    note: Text = ""


class Approve(Document):
    """A key holder agrees that a manifest may enter a stage."""

    type: Literal["approve"] = "approve"
    name: Name
    stage: Tag
    manifest: ManifestId
    note: Text = ""


class TagChange(Document):
    """A tag of a name is put on a manifest, or taken away (``manifest`` None)."""

    type: Literal["tag"] = "tag"
    name: Name
    tag: Tag
    manifest: ManifestId | None


class Yank(Document):
    """An artifact should not be used any more; it stays for those who named it exactly."""

    type: Literal["yank"] = "yank"
    manifest: ManifestId
    yanked: bool = True
    reason: Text = ""


class Tombstone(Document):
    """An artifact is deleted: its name is gone, its blobs are for ``gc``."""

    type: Literal["tombstone"] = "tombstone"
    manifest: ManifestId
    reason: Text = ""


class KeyChange(Document):
    """The trust root moved to another version."""

    type: Literal["keys"] = "keys"
    root: Count
    note: Text = ""


class Collected(Document):
    """Unreachable blobs were moved to the trash and deleted."""

    type: Literal["gc"] = "gc"
    blobs: Count
    size_bytes: Count


Body = Publish | Promote | Demote | Approve | TagChange | Yank | Tombstone | KeyChange | Collected


class Event(Document):
    """One entry of a writer's hash-chained log."""

    schema_: Literal["modelops.event/1"] = Field(
        default="modelops.event/1", validation_alias="schema", serialization_alias="schema"
    )
    registry: RegistryId
    writer: WriterId
    seq: Count
    prev: Digest | None
    """sha256 of the writer's event before this one; None for the first."""
    clock: Count
    """Lamport clock: above everything this writer had seen."""
    root: Count
    """Version of the trust root in force when it was written."""
    time: Time
    who: Annotated[str, StringConstraints(max_length=256)]
    body: Annotated[Body, Field(discriminator="type")]


class PublicKey(Document):
    """A public key of the root; ``owner`` is for people."""

    algorithm: Literal["ed25519", "ecdsa-p256"]
    public: Annotated[str, StringConstraints(max_length=256)]
    """Base64: 32 raw bytes (Ed25519) or DER SubjectPublicKeyInfo (P-256)."""
    owner: Annotated[str, StringConstraints(max_length=256)] = ""


class Role(Document):
    """Who may act in a role, and how many of them it takes."""

    keys: list[KeyId]
    threshold: Annotated[int, Field(ge=1, le=64)] = 1


class Revocation(Document):
    """A key that is no longer believed, but for what it had signed up to ``last_good``."""

    reason: Text
    time: Time
    last_good: dict[WriterId, Count] = {}
    """Last believed sequence number by writer; a writer that is not named has none."""


class StageRule(Document):
    """Who may move a stage: distinct keys of ``role``, ``threshold`` of them."""

    name: Tag
    role: Literal["device", "release"] = "device"
    threshold: Annotated[int, Field(ge=1, le=64)] = 1


class Root(Document):
    """Who may sign what. Version n+1 is signed by a threshold of version n and of itself."""

    schema_: Literal["modelops.root/1"] = Field(
        default="modelops.root/1", validation_alias="schema", serialization_alias="schema"
    )
    registry: RegistryId
    version: Annotated[int, Field(ge=1, le=2**31)]
    created: Time
    keys: dict[KeyId, PublicKey]
    roles: dict[Literal["root", "device", "release", "attest"], Role]
    stages: Annotated[list[StageRule], Field(min_length=1, max_length=32)]
    revoked: dict[KeyId, Revocation] = {}


class WriterHead(Document):
    """Where a writer's log ends."""

    seq: Count
    head: Digest


class Checkpoint(Document):
    """What a remote holds: the one document there that is ever replaced."""

    schema_: Literal["modelops.checkpoint/1"] = Field(
        default="modelops.checkpoint/1", validation_alias="schema", serialization_alias="schema"
    )
    registry: RegistryId
    version: Count
    created: Time
    expires: Time
    root: Count
    writers: dict[WriterId, WriterHead]


def now() -> str:
    """The moment as documents write it (UTC, microseconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def epoch(time: str) -> float:
    """Seconds since the epoch of a document's time."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def payload_of(document: Document) -> bytes:
    """The canonical bytes that are signed."""
    return canonical.dumps(document.model_dump(mode="json", by_alias=True))


def parse(model: type[T], payload: bytes, what: str) -> T:
    """Read a signed payload.

    Raises:
        IntegrityError: not canonical, or not a document of this kind.
    """
    return validate(model, canonical.loads(payload, what), what)


def validate(model: type[T], value: Any, what: str) -> T:
    """``value`` as a document.

    Raises:
        IntegrityError: unknown or missing fields, wrong types, values out of range.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise IntegrityError(f"{what} is refused", why=f"{where}: {first['msg']}") from error
