"""What a list tells of an index: whether its files changed, and the artifact that holds it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from engine.api.rag import Rag
from engine.models import ModelLocation
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder, fingerprint_of
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.store import named_index


def test_changed_and_removed_files_are_told(paths: StatePaths, library: Path) -> None:
    sync_index(Job("library", library), paths)
    rag = Rag(paths)
    assert rag.show("library").stale == ""
    (library / "bread.txt").write_text("Bread is baked.\n")
    (library / "animals" / "cats.md").unlink()
    assert rag.show("library").stale == "files since the sync: 1 changed, 1 gone"
    sync_index(Job("library", library), paths)
    assert rag.show("library").stale == ""
    shutil.rmtree(library)
    assert rag.show("library").stale == "its folder is gone"


def test_the_artifact_is_named_until_the_table_changes(paths: StatePaths, library: Path) -> None:
    sync_index(Job("library", library), paths)
    rag = Rag(paths)
    assert rag.show("library").manifest is None
    named_index("library", paths).published("sha256:" + "a" * 64)
    assert rag.show("library").manifest == "sha256:" + "a" * 64
    sync_index(Job("library", library), paths)
    assert rag.show("library").manifest == "sha256:" + "a" * 64, "nothing changed"
    (library / "bread.txt").write_text("Bread is baked.\n")
    sync_index(Job("library", library), paths)
    assert rag.show("library").manifest is None


def test_replaced_weights_change_the_fingerprint(embedder: Embedder, tmp_path: Path) -> None:
    """The digest is remembered, but not beyond the file it was taken of."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    shutil.copy(embedder.location.path / "config.json", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    location = ModelLocation(embedder.location.kind, folder, None, "encoder")
    first, stat = fingerprint_of(location), weights.stat()
    assert fingerprint_of(location) == first
    fresh = folder / "fresh"
    fresh.write_bytes(b"two")
    os.utime(fresh, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fresh.replace(weights)
    assert fingerprint_of(location).weights_sha256 != first.weights_sha256
