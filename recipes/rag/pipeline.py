"""Put the parts together from names: index reference and model reference to a ready retriever."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import IntegrityError
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.folder import Collection, Folder, is_collection
from recipes.rag.retrieve import Retriever
from recipes.rag.store import Meta, named_index, open_index, write_json
from recipes.rag.sync import Progress, Sync, SyncReport

#: Beside the pointer of an index: what it was synced with.
_SOURCE = "source.json"
_KEPT = (
    "model", "language", "chunk_tokens", "chunk_overlap", "include", "exclude", "tags",
    "follow_links", "max_file_mb",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What a sync needs to know; ``recipes.rag.schema`` is its form in recipes."""

    index: str
    folder: Path
    model: str = "all-minilm-l6-v2"
    language: str = "English"
    chunk_tokens: int = 128
    chunk_overlap: int = 32
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tags: dict[str, list[str]] | None = None
    follow_links: bool = False
    max_file_mb: int = 64
    rebuild: bool = False


def sync_index(
    job: Job,
    paths: StatePaths,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> SyncReport:
    """Make or update an index.

    Raises:
        NotFound: no such folder or model.
        Conflict: another process syncs it.
        OutOfSpace: the disk is full.
    """
    embedder = Embedder(resolve_model(job.model, paths), device)
    meta = Meta(
        fingerprint=embedder.fingerprint,
        chunk_tokens=job.chunk_tokens,
        chunk_overlap=job.chunk_overlap,
        language=job.language,
        folder=str(job.folder),
        tags=dict(job.tags or {}),
    )
    source: Folder | Collection
    if is_collection(job.folder):
        source = Collection(job.folder)
    else:
        source = Folder(
            job.folder, job.include, job.exclude, job.max_file_mb << 20, job.follow_links
        )
    index = named_index(job.index, paths)
    report = Sync(index, source, meta, embedder, progress, stop).run(rebuild=job.rebuild)
    write_json(
        index.folder / _SOURCE,
        {name: getattr(job, name) for name in _KEPT} | {"folder": str(job.folder)},
    )
    return report


def remembered(name: str, paths: StatePaths) -> dict[str, Any]:
    """Fields of the ``Job`` that the index was synced with last; empty where there is none.

    Of an index that was made before these were kept, what its generation tells.
    """
    index = named_index(name, paths)
    try:
        kept: dict[str, Any] = json.loads((index.folder / _SOURCE).read_text())
        return {**kept, "include": tuple(kept["include"]), "exclude": tuple(kept["exclude"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        meta = index.current.meta if index.current is not None else None
    except IntegrityError:
        meta = None
    if meta is None:
        return {}
    return {
        "folder": meta.folder,
        "model": meta.fingerprint.model,
        "language": meta.language,
        "chunk_tokens": meta.chunk_tokens,
        "chunk_overlap": meta.chunk_overlap,
        "tags": meta.tags,
    }


def open_retriever(
    ref: str, paths: StatePaths, *, model: str = "", device: str = "cpu"
) -> Retriever:
    """The pipeline of an index, with the model it was made by (or ``model``, which must be it).

    Raises:
        NotFound: no such index, or its model is not on this machine.
        Conflict: the model differs from the one the index was made by; both are named.
    """
    generation = open_index(ref, paths)
    wanted = model or generation.meta.fingerprint.model
    location = resolve_model(wanted, paths)
    return Retriever(generation, Embedder(location, device))


class Pipelines:
    """Retrievers kept open between calls of a service, renewed when an index was rebuilt."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._open: dict[str, Retriever] = {}

    def get(self, ref: str) -> Retriever:
        """The retriever of ``ref``, loaded once."""
        known = self._open.get(ref)
        folder = open_index(ref, self._paths).folder
        if known is not None and known.generation.folder == folder:
            return known
        self._open[ref] = open_retriever(ref, self._paths)
        return self._open[ref]
