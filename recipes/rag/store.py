"""An index on disk: generations of one LanceDB table, and the pointer to the one that answers.

``indexes/<name>/index.json`` names the current generation ``g<n>/``, which holds ``meta.json`` (the
settings and the model's fingerprint), the table ``chunks.lance``, and ``files.json`` (what a sync
knows of the files; rebuilt from the table where a kill left it behind). A rebuild fills a new
generation beside the old one and then replaces the pointer. The same generation folder, published,
is the artifact.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Conflict, IntegrityError, NotFound
from engine.paths import StatePaths
from recipes.rag.embedding import Fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "chunks"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
#: changed when a table of an older version of this program can't be read any more
FORMAT = 1
#: above this many chunks an approximate vector index is built (exact search was 1.65 s at 1M)
EXACT_LIMIT = 50_000


def schema(dimensions: int) -> pa.Schema:
    """Columns of the table of chunks."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("file_sha", pa.string()),
            pa.field("size", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("number", pa.int32()),
            pa.field("start", pa.int64()),
            pa.field("end", pa.int64()),
            pa.field("tokens", pa.int32()),
            pa.field("headings", pa.string()),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("date", pa.timestamp("s")),
            pa.field("prefix", pa.int32()),
            pa.field("search_text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimensions)),
        ]
    )


@dataclass(frozen=True)
class Meta:
    """What a generation was made with; a difference means a rebuild."""

    fingerprint: Fingerprint
    chunk_tokens: int
    chunk_overlap: int
    language: str
    folder: str
    tags: dict[str, list[str]] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "fingerprint": self.fingerprint.to_json(),
            "chunk_tokens": self.chunk_tokens,
            "chunk_overlap": self.chunk_overlap,
            "language": self.language,
            "folder": self.folder,
            "tags": self.tags,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Meta:
        fingerprint = Fingerprint.from_json(value["fingerprint"])
        return cls(**{**value, "fingerprint": fingerprint})


class Generation:
    """One table of chunks with what it was made with. Open it with :func:`open_index`."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder = folder
        self.name = name or folder.name

    @cached_property
    def meta(self) -> Meta:
        """Settings and fingerprint.

        Raises:
            IntegrityError: ``meta.json`` is missing or damaged.
        """
        try:
            value = json.loads((self.folder / "meta.json").read_text())
            found = Meta.from_json(value)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise IntegrityError(
                f"index {self.name} is damaged",
                why=f"{self.folder.name}/meta.json: {error}",
                hint=f"modelops-tui rag sync {self.name} --rebuild",
            ) from error
        if found.format != FORMAT:
            raise IntegrityError(
                f"index {self.name} has format {found.format}, this program reads {FORMAT}",
                hint=f"modelops-tui rag sync {self.name} --rebuild",
            )
        return found

    @cached_property
    def table(self) -> Any:
        """The LanceDB table; every read sees what other processes committed.

        Raises:
            IntegrityError: the table can't be opened.
        """
        import lancedb  # 1.7 CPU-s

        try:
            # without the interval a handle never sees another process's writes
            database = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
            return database.open_table(TABLE)
        except (ValueError, RuntimeError, OSError) as error:
            raise IntegrityError(
                f"index {self.name} can't be opened",
                why=str(error).splitlines()[0],
                hint=f"modelops-tui rag sync {self.name} --rebuild",
            ) from error

    def create(self, meta: Meta) -> None:
        """Make the empty generation: folder, ``meta.json``, table."""
        import lancedb

        self.folder.mkdir(parents=True, exist_ok=True)
        database = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
        database.create_table(TABLE, schema=schema(meta.fingerprint.dimensions), mode="overwrite")
        self.write("meta.json", meta.to_json())

    def write(self, name: str, value: Any) -> None:
        """Replace a small JSON file of the generation (fsync, rename)."""
        write_json(self.folder / name, value)

    @property
    def files(self) -> dict[str, Any]:
        """What a sync knows: ``{"lance_version", "files": {path: record}}``, empty where absent."""
        try:
            value: dict[str, Any] = json.loads((self.folder / "files.json").read_text())
        except (OSError, ValueError):
            value = {}
        return {"lance_version": -1, "files": {}, **value}

    def size_bytes(self) -> int:
        """Bytes on disk of the table."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole: a reader sees the old or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@dataclass(frozen=True)
class Index:
    """A named index of a state directory: its generations and the pointer."""

    name: str
    folder: Path

    @property
    def pointer(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.folder / "index.json").read_text())
        except (OSError, ValueError):
            value = {}
        return value

    @property
    def current(self) -> Generation | None:
        """The generation that answers, or None before the first sync ended."""
        name = self.pointer.get("generation")
        return Generation(self.folder / str(name), self.name) if name else None

    def fresh(self, meta: Meta) -> Generation:
        """The generation to build: an unfinished one made with ``meta``, else a new, empty one."""
        current = self.pointer.get("generation")
        numbers = [0]
        for folder in sorted(self.folder.glob("g[0-9]*")):
            if folder.name == current:
                numbers.append(int(folder.name[1:]))
                continue
            found = Generation(folder, self.name)
            try:
                if found.meta == meta and found.table.count_rows() >= 0:
                    return found
            except IntegrityError:
                pass  # a kill in the middle of making it: nothing in it counts
            shutil.rmtree(folder)
        generation = Generation(self.folder / f"g{max(numbers) + 1:04d}", self.name)
        generation.create(meta)
        return generation

    def switch(self, generation: Generation, **fields: Any) -> None:
        """Let ``generation`` answer from now on; the one before is removed."""
        before = self.pointer.get("generation")
        pointer = {**self.pointer, "generation": generation.folder.name, **fields}
        write_json(self.folder / "index.json", pointer)
        if before and before != generation.folder.name:
            shutil.rmtree(self.folder / before, ignore_errors=True)

    def remove(self) -> int:
        """Delete it with all that was embedded; artifacts of it stay in the registry.

        Returns:
            Bytes that were freed.

        Raises:
            NotFound: there is nothing of that name.
            Conflict: another process syncs it.
        """
        if not self.folder.is_dir():
            raise NotFound(f"there is no index {self.name!r}", hint="modelops-tui rag list")
        with self.writing():
            size = sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())
            # nobody finds it from here on; what a kill leaves is deleted by the next removal
            (self.folder / "index.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder)
        return size

    def published(self, manifest: str) -> None:
        """Remember the artifact that holds what answers now."""
        pointer = self.pointer
        state = [pointer.get("generation"), pointer.get("table_version")]
        write_json(
            self.folder / "index.json", {**pointer, "manifest": manifest, "manifest_of": state}
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the index for one writer; readers never wait.

        Raises:
            Conflict: another process syncs it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"index {self.name} is being synced by another process",
                    hint="wait for it, or cancel its job",
                ) from error
            yield


def check_name(name: str) -> str:
    """``name`` itself when it can name an index.

    Raises:
        BadInput: it can't.
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} can't name an index",
            why="names are lower-case letters, digits, . _ - (at most 100, no leading mark)",
        )
    return name


def named_index(name: str, paths: StatePaths) -> Index:
    """The index called ``name``, which need not exist yet."""
    return Index(check_name(name), paths.indexes / name)


def index_names(paths: StatePaths) -> tuple[str, ...]:
    """Names of every index that answers, sorted."""
    return tuple(sorted(p.parent.name for p in paths.indexes.glob("*/index.json")))


def open_index(ref: str, paths: StatePaths) -> Generation:
    """The generation behind ``ref``: the name of an index, or an artifact of the registry.

    An artifact (``name@prod``, ``sha256:...``) is verified before it is opened.

    Raises:
        NotFound: neither exists.
        IntegrityError: the artifact's bytes are not what was signed.
    """
    if NAME.fullmatch(ref):
        generation = named_index(ref, paths).current
        if generation is not None:
            return generation
    if paths.registry.is_dir():
        from engine.registry import Registry

        registry = Registry.open(paths)
        try:
            artifact = registry.resolve(ref)
        except NotFound:
            artifact = None
        if artifact is not None and artifact.artifact_type != "index":
            raise BadInput(f"{ref} is not an index", why=f"it is a {artifact.artifact_type}")
        if artifact is not None:
            return Generation(registry.materialize(artifact.manifest), ref)
    names = ", ".join(index_names(paths))
    raise NotFound(
        f"there is no index {ref!r}",
        why=f"indexes: {names}" if names else "no folder was indexed yet",
        hint="modelops-tui rag sync FOLDER --name NAME",
    )
