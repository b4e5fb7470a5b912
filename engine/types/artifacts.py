"""Artifacts of the registry as the screens, the CLI and the SDK see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ArtifactView:
    """One artifact, described by its signed manifest and the registry's state."""

    manifest: str
    """``sha256:<hex>``: the id."""
    name: str
    version: str
    artifact_type: str
    """dataset, base, adapter, model, quantized, index, report or recipe."""
    created: float
    """Seconds since the epoch."""
    size_bytes: int
    files: int
    stages: tuple[str, ...] = ()
    """Stages this very version holds now."""
    tags: tuple[str, ...] = ()
    license: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[tuple[str, str], ...] = ()
    """``(relation, manifest id)`` edges of the lineage."""
    run: Mapping[str, str] = field(default_factory=dict)
    signed_by: str = ""
    """Key id of the device that signed the publication."""
    writer: str = ""
    hidden: bool = False
    """An output of a step; lists leave it out unless asked."""
    yanked: bool = False
    yank_reason: str = ""
    partial: bool = False
    """Not all of its blobs are here; can't be loaded or promoted."""
    pickles: bool = False

    @property
    def id(self) -> str:
        """The manifest id."""
        return self.manifest


@dataclass(frozen=True)
class FileView:
    """One file of an artifact."""

    path: str
    sha256: str
    size: int
    media_type: str
    present: bool = True


@dataclass(frozen=True)
class SignatureView:
    """One signature of a manifest or event."""

    key: str
    fingerprint: str
    owner: str
    role: str
    """device, release or unknown."""
    state: str
    """valid, invalid, unknown (not in the trust root) or revoked."""
    time: str = ""


@dataclass(frozen=True)
class EventView:
    """One entry of the audit trail."""

    time: str
    who: str
    type: str
    text: str
    """The change in words."""
    name: str = ""
    stage: str = ""
    manifest: str = ""
    writer: str = ""
    seq: int = 0
    clock: int = 0
    key: str = ""
    verdict: str = "ok"
    """ok, ``conflict: ...`` or ``refused: ...`` (recorded, without effect)."""


@dataclass(frozen=True)
class ArtifactDetail:
    """Everything about one artifact."""

    view: ArtifactView
    files: tuple[FileView, ...]
    signatures: tuple[SignatureView, ...]
    parents: tuple[tuple[str, ArtifactView | str], ...]
    """``(relation, artifact)``; the manifest id where it is not here."""
    children: tuple[tuple[str, ArtifactView], ...]
    events: tuple[EventView, ...]
    card: str = ""
    license_note: str = ""
    """What the parents' licences ask of this one."""
    scan: str = ""
    recipe: str | None = None
    sbom: str | None = None
    model_sig: str | None = None
    """Path of the Sigstore bundle that ``model_signing verify key`` reads."""


@dataclass(frozen=True)
class LineageNode:
    """An artifact in a lineage tree; ``depth`` 0 is the one that was asked about."""

    manifest: str
    relation: str
    depth: int
    view: ArtifactView | None
    """None where it is not in this registry."""
    parent_of: str = ""
    """The node (nearer to the start) through which it was reached."""


@dataclass(frozen=True)
class VerifyReport:
    """What a check of an artifact found; every problem has a reason."""

    manifest: str
    name: str
    ok: bool
    problems: tuple[str, ...]
    files: int
    size_bytes: int
    deep: bool
    """True when every byte was read again."""
    signed_by: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class StageView:
    """A stage of the user's ladder and who may move it."""

    name: str
    role: str
    threshold: int
    gates: tuple[str, ...] = ()
    held: int = 0
    """Names that have a version in it."""


@dataclass(frozen=True)
class GateResult:
    """One condition of a promotion."""

    name: str
    ok: bool
    text: str
    """What was asked and what was found."""
    needs_passphrase: bool = False
    """True when signatures of release keys would meet it."""
    missing: int = 0
    """How many release keys must still agree."""


@dataclass(frozen=True)
class StageChange:
    """One stay of a version in a stage: the answer to "who was prod on that day"."""

    name: str
    stage: str
    manifest: str
    version: str
    since: str
    until: str | None
    who: str
    note: str = ""


@dataclass(frozen=True)
class Fault:
    """One thing ``fsck`` found."""

    kind: str
    """blob, manifest, event, trust, index, view, staging."""
    subject: str
    text: str
    repaired: bool = False


@dataclass(frozen=True)
class FsckReport:
    """The state of the registry's files."""

    ok: bool
    faults: tuple[Fault, ...]
    blobs: int
    manifests: int
    events: int
    bytes_read: int
    deep: bool
    seconds: float


@dataclass(frozen=True)
class GcReport:
    """What a garbage collection would free, or freed."""

    blobs: int
    size_bytes: int
    kept_young: int
    staging: int
    dry_run: bool


@dataclass(frozen=True)
class KeyView:
    """A key of the trust root."""

    key: str
    fingerprint: str
    owner: str
    algorithm: str
    roles: tuple[str, ...]
    here: bool
    """The private half is on this machine."""
    revoked: str = ""
    """The reason, where it is revoked."""


@dataclass(frozen=True)
class RemoteView:
    """A place this registry syncs with."""

    name: str
    url: str
    shared: bool
    """The server honours conditional writes, so that several may push."""
    note: str = ""
    last_push: str = ""
    last_pull: str = ""


@dataclass(frozen=True)
class SyncStatus:
    """What a push or a pull would move."""

    remote: str
    push_events: int
    push_manifests: int
    push_blobs: int
    push_bytes: int
    pull_events: int
    pull_manifests: int
    pull_blobs: int
    pull_bytes: int
    remote_checkpoint: int
    text: str = ""


@dataclass(frozen=True)
class SyncChange:
    """One event that is on one side only."""

    direction: str
    """``push``: it is here and not there; ``pull``: there and not here."""
    time: str
    who: str
    text: str


@dataclass(frozen=True)
class SyncProgress:
    """One step of a push or a pull, for a progress bar."""

    phase: str
    file: str
    done: int
    total: int
    """Bytes of all blobs."""
    file_done: int = 0
    file_total: int = 0


@dataclass(frozen=True)
class SyncReport:
    """What a push or a pull did."""

    remote: str
    events: int
    manifests: int
    blobs: int
    size_bytes: int
    seconds: float
    dry_run: bool = False
    retries: int = 0
    partial: tuple[str, ...] = ()
    """Artifacts that were pulled in part only."""


@dataclass(frozen=True)
class CompareView:
    """Two artifacts side by side."""

    left: ArtifactView
    right: ArtifactView
    metrics: tuple[tuple[str, float | None, float | None], ...]
    files: tuple[tuple[str, int | None, int | None, bool], ...]
    """``(path, left size, right size, same bytes)``."""
    facts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class MarketEntry:
    """A shared adapter of a catalogue."""

    name: str
    version: str
    publisher: str
    fingerprint: str
    pinned: bool
    base: str
    license: str
    size_bytes: int
    summary: str
    manifest: str
    created: str
    tags: tuple[str, ...] = ()
    installed: bool = False
