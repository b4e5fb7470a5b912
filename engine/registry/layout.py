"""The folders and files of one registry, and the limits every document in it is held to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadInput
from engine.paths import StatePaths

FORMAT = 1
MAX_DOCUMENT_BYTES = 16 << 20
MAX_FILES = 100_000
MAX_DEPTH = 32
MAX_INTEGER = 2**53 - 1

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_of(manifest_id: str) -> str:
    """The 64 hex digits of ``sha256:<hex>`` (or of the bare hex).

    Raises:
        BadInput: it is neither.
    """
    digest = manifest_id.removeprefix("sha256:")
    if not _DIGEST.fullmatch(digest):
        raise BadInput(f"{manifest_id!r} is no manifest id", why="expected sha256:<64 hex digits>")
    return digest


@dataclass(frozen=True)
class Layout:
    """Names under ``registry/`` (see docs/registry.md); nothing else builds these paths."""

    root: Path
    keys: Path
    views: Path
    """Folders of links to blobs, made when an artifact is loaded; derived, may be deleted."""

    @classmethod
    def of(cls, paths: StatePaths) -> Layout:
        return cls(paths.registry, paths.keys, paths.cache / "artifacts")

    @property
    def about(self) -> Path:
        return self.root / "registry.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def index(self) -> Path:
        return self.root / "index.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests" / "sha256"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def trust(self) -> Path:
        return self.root / "trust"

    @property
    def attest(self) -> Path:
        return self.root / "attest"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def seen(self) -> Path:
        return self.state / "seen"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def writer(self) -> Path:
        return self.state / "writer.json"

    @property
    def stat_cache(self) -> Path:
        return self.state / "stat.db"

    def folders(self) -> tuple[Path, ...]:
        """Every folder a registry has, parents first."""
        return (
            self.root,
            self.blobs,
            self.manifests,
            self.log,
            self.trust,
            self.attest,
            self.state,
            self.seen,
            self.staging,
            self.trash,
        )

    def blob(self, digest: str) -> Path:
        return self.blobs / digest

    def manifest(self, digest: str) -> Path:
        return self.manifests / f"{digest}.json"

    def event(self, writer: str, seq: int) -> Path:
        return self.log / writer / f"{seq:016d}.json"

    def root_document(self, version: int) -> Path:
        return self.trust / f"{version}.root.json"
