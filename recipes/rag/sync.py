"""Bring an index up to date with its documents: only what changed is read, embedded and written.

Each commit to the table swaps whole files, so a reader never sees half a document, and a kill
leaves the table at the last commit; the next sync compares it with the folder and goes on. Vectors
of chunks whose text did not change are kept, also when their file was renamed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import OutOfSpace
from recipes.rag.chunking import chunk_text, search_text
from recipes.rag.embedding import Embedder
from recipes.rag.folder import Entry
from recipes.rag.readers import Document, Unreadable
from recipes.rag.store import EXACT_LIMIT, Generation, Index, Meta, schema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: a commit holds about this many chunks (always whole files)
COMMIT_CHUNKS = 512
#: ``files.json`` is written at least this often, so that a kill loses little reading
STATE_SECONDS = 20.0
#: compaction pays above this many fragments (measured: queries slow down beyond it)
COMPACT_FRAGMENTS = 32
#: rows outside the text index are searched one by one; beyond this many it is extended
TAIL_ROWS = 2_000


class Source(Protocol):
    """Where documents come from (``recipes.rag.folder``)."""

    @property
    def trouble(self) -> dict[str, str]: ...
    def scan(self) -> list[Entry]: ...
    def load(self, entry: Entry) -> tuple[Document, str]: ...
    def digest(self, entry: Entry) -> str: ...


@dataclass
class SyncReport:
    """What a sync did; counts are files unless they say otherwise."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    renamed: int = 0
    unchanged: int = 0
    embedded_chunks: int = 0
    reused_chunks: int = 0
    documents: int = 0
    chunks: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    rebuilt: bool = False
    generation: str = ""


@dataclass
class _Pending:
    entry: Entry
    sha: str
    rows: list[dict[str, Any]]


Progress = Callable[[int, int, str], None]


class Sync:
    """One run over a source.

    Args:
        index: the index to bring up to date.
        source: the documents.
        meta: what the index shall be made with; a difference to the current one rebuilds it beside.
        embedder: the encoder of ``meta.fingerprint``.
        progress: called with (documents done, documents to do, name).
        stop: asked between commits; True ends the sync after the last commit.
    """

    def __init__(
        self,
        index: Index,
        source: Source,
        meta: Meta,
        embedder: Embedder,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.index = index
        self.source = source
        self.meta = meta
        self.embedder = embedder
        self.report = SyncReport()
        self._progress = progress or (lambda done, total, name: None)
        self._stop = stop or (lambda: False)
        self._state: dict[str, dict[str, Any]] = {}
        self._state_written = time.monotonic()
        self._renamed_from: dict[str, str] = {}

    def run(self, *, rebuild: bool = False) -> SyncReport:
        """Sync now; returns what was done.

        Raises:
            Conflict: another process syncs this index.
            NotFound: the folder is gone.
            OutOfSpace: the disk is full; the index answers as before.
        """
        began = time.monotonic()
        with self.index.writing():
            generation = self._generation(rebuild)
            self._state = self._load_state(generation)
            try:
                finished = self._work(generation)
            except (OSError, RuntimeError) as error:
                if "No space left" in str(error) or "StorageFull" in str(error):
                    raise OutOfSpace(
                        f"index {self.index.name} could not be written",
                        why="the disk is full",
                        hint="it answers as before; sync again when there is space",
                    ) from error
                raise
            self._write_state(generation)
            if finished:
                self._finish(generation)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _generation(self, rebuild: bool) -> Generation:
        current = self.index.current
        if current is not None and not rebuild:
            from engine.errors import IntegrityError

            try:
                if current.meta == self.meta and current.table.count_rows() >= 0:
                    return current
            except IntegrityError:
                self.report.warnings["index"] = "the index was damaged: it is built anew"
        self.report.rebuilt = current is not None
        return self.index.fresh(self.meta)

    # -- state ------------------------------------------------------------------------------------

    def _load_state(self, generation: Generation) -> dict[str, dict[str, Any]]:
        """What is known of each file; taken from the table itself after a kill."""
        known = generation.files
        if known["lance_version"] == int(generation.table.version):
            return dict(known["files"])
        state = {p: r for p, r in known["files"].items() if r["status"] == "unreadable"}
        columns = ["path", "file_sha", "size", "mtime_ns"]
        for batch in generation.table.search().select(columns).to_batches():
            for row in batch.to_pylist():
                record = state.get(row["path"])
                if record is None or record["status"] == "unreadable":
                    state[row["path"]] = _record(
                        Entry(row["path"], row["size"], row["mtime_ns"]), row["file_sha"], 1
                    )
                else:
                    record["chunks"] += 1
        return state

    def _write_state(self, generation: Generation) -> None:
        version = int(generation.table.version)
        generation.write("files.json", {"lance_version": version, "files": self._state})
        self._state_written = time.monotonic()

    # -- the work ---------------------------------------------------------------------------------

    def _work(self, generation: Generation) -> bool:
        """Read, embed and commit what differs; False when a stop came before the end."""
        entries = self.source.scan()
        names = {e.path for e in entries}
        doubtful = [e for e in entries if not self._same(e)]
        self.report.unchanged = len(entries) - len(doubtful)
        gone = {p: r for p, r in self._state.items() if p not in names}
        by_sha = {r["sha"]: p for p, r in gone.items() if r["chunks"]}
        batch: list[_Pending] = []
        for done, pending in enumerate(self._read(doubtful, by_sha), 1):
            if pending is not None:
                batch.append(pending)
            if sum(len(p.rows) for p in batch) >= COMMIT_CHUNKS:
                self._commit(generation, batch)
                batch = []
                if time.monotonic() - self._state_written > STATE_SECONDS:
                    self._write_state(generation)
            self._progress(done, len(doubtful), doubtful[done - 1].path)
            if self._stop():
                self._commit(generation, batch)
                return False
        self._commit(generation, batch)
        self._remove(generation, gone)
        return True

    def _same(self, entry: Entry) -> bool:
        known = self._state.get(entry.path)
        same = known and (known["size"], known["mtime_ns"]) == (entry.size, entry.mtime_ns)
        return bool(same)

    def _read(self, entries: list[Entry], by_sha: dict[str, str]) -> Iterator[_Pending | None]:
        for entry in entries:
            known = self._state.get(entry.path)
            try:
                # touched but not changed: nothing to embed, nothing to commit
                if known and known["chunks"] and self.source.digest(entry) == known["sha"]:
                    known.update(size=entry.size, mtime_ns=entry.mtime_ns)
                    self.report.unchanged += 1
                    yield None
                    continue
                document, sha = self.source.load(entry)
            except Unreadable as error:
                yield self._unreadable(entry, known, str(error))
                continue
            if sha in by_sha:
                self._renamed_from[entry.path] = by_sha[sha]
                self.report.renamed += 1
            elif known:
                self.report.changed += 1
            else:
                self.report.added += 1
            if document.warning:
                self.report.warnings[entry.path] = document.warning
            yield _Pending(entry, sha, self._rows(entry, sha, document))

    def _unreadable(
        self, entry: Entry, known: dict[str, Any] | None, reason: str
    ) -> _Pending | None:
        """Remember why; a file that could be read before leaves the index."""
        had = bool(known and known["chunks"])
        self._state[entry.path] = _record(entry, "", 0, reason, "unreadable")
        return _Pending(entry, "", []) if had else None

    def _rows(self, entry: Entry, sha: str, document: Document) -> list[dict[str, Any]]:
        chunks = chunk_text(
            document.text,
            self.embedder.tokenizer,
            size=self.meta.chunk_tokens,
            overlap=self.meta.chunk_overlap,
            title=document.title,
            markdown=document.markdown,
        )
        stem = hashlib.sha256(entry.path.encode()).hexdigest()[:24]
        tags = sorted({*document.tags, *self._tags(entry.path)})
        rows = []
        for chunk in chunks:
            text, prefix = search_text(chunk.headings, document.text[chunk.start : chunk.end])
            rows.append(
                {
                    "id": f"{stem}:{chunk.number:06d}",
                    "path": entry.path,
                    "file_sha": sha,
                    "size": entry.size,
                    "mtime_ns": entry.mtime_ns,
                    "number": chunk.number,
                    "start": chunk.start,
                    "end": chunk.end,
                    "tokens": chunk.tokens,
                    "headings": " > ".join(chunk.headings),
                    "tags": tags,
                    "date": _date(document, entry),
                    "prefix": prefix,
                    "search_text": text,
                }
            )
        return rows

    def _tags(self, path: str) -> list[str]:
        return [
            t for glob, tags in self.meta.tags.items() if fnmatch.fnmatch(path, glob) for t in tags
        ]

    # -- the table --------------------------------------------------------------------------------

    def _commit(self, generation: Generation, batch: list[_Pending]) -> None:
        if not batch:
            return
        import pyarrow as pa

        rows = [row for pending in batch for row in pending.rows]
        known = [p.entry.path for p in batch if self._state.get(p.entry.path, {}).get("chunks")]
        # an unreadable file's record is already written; its old rows still have to go
        known += [p.entry.path for p in batch if not p.rows]
        vectors = self._vectors(generation, rows, known, batch)
        fields = schema(self.meta.fingerprint.dimensions)
        flat = pa.array(vectors.ravel(), pa.float32())
        columns = [
            pa.array([r[f.name] for r in rows], f.type) for f in fields if f.name != "vector"
        ]
        columns.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        data = pa.Table.from_arrays(columns, schema=fields)
        table = generation.table
        if not known:
            table.add(data)
        elif not rows:
            table.delete(_paths(known))
        else:
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.when_not_matched_by_source_delete(_paths(known)).execute(data)
        for pending in batch:
            if pending.rows:
                warning = self.report.warnings.get(pending.entry.path, "")
                status = "warning" if warning else "indexed"
                self._state[pending.entry.path] = _record(
                    pending.entry, pending.sha, len(pending.rows), warning, status
                )

    def _vectors(
        self,
        generation: Generation,
        rows: list[dict[str, Any]],
        known: list[str],
        batch: list[_Pending],
    ) -> NDArray[np.float32]:
        """Vectors of ``rows``: those of unchanged texts are taken from the table."""
        import numpy as np

        sources = [*known, *(s for p in batch if (s := self._renamed_from.get(p.entry.path)))]
        old: dict[str, Any] = {}
        if sources:
            found = generation.table.search().where(_paths(sources))
            for record in found.select(["search_text", "vector"]).to_arrow().to_pylist():
                old[record["search_text"]] = record["vector"]
        # licences and letterheads stand in many files: each text is embedded once
        fresh = list(dict.fromkeys(t for row in rows if (t := row["search_text"]) not in old))
        if fresh:
            old.update(zip(fresh, self.embedder.encode(fresh), strict=True))
        vectors: NDArray[np.float32] = np.zeros(
            (len(rows), self.meta.fingerprint.dimensions), dtype=np.float32
        )
        for i, row in enumerate(rows):
            vectors[i] = old[row["search_text"]]
        self.report.embedded_chunks += len(fresh)
        self.report.reused_chunks += len(rows) - len(fresh)
        return vectors

    def _remove(self, generation: Generation, gone: dict[str, dict[str, Any]]) -> None:
        names = [p for p, r in gone.items() if r["chunks"]]
        for begin in range(0, len(names), 500):
            generation.table.delete(_paths(names[begin : begin + 500]))
        for path in gone:
            del self._state[path]
        self.report.removed = len(gone) - self.report.renamed

    def _finish(self, generation: Generation) -> None:
        """Extend or compact what needs it, then let the generation answer."""
        maintain(generation, self.meta.language, first=self.index.current is None)
        self._write_state(generation)
        report = self.report
        report.generation = generation.folder.name
        report.documents = sum(1 for r in self._state.values() if r["chunks"])
        report.chunks = int(generation.table.count_rows())
        report.unreadable = {
            **{p: r["reason"] for p, r in self._state.items() if r["status"] == "unreadable"},
            **self.source.trouble,
        }
        self.index.switch(
            generation,
            updated=time.time(),
            documents=report.documents,
            chunks=report.chunks,
            unreadable=len(report.unreadable),
            # what a published artifact is compared with: any commit makes it an older state
            table_version=int(generation.table.version),
        )


def maintain(generation: Generation, language: str, *, first: bool) -> None:
    """Make or extend the indexes, and compact where the number of fragments asks for it."""
    from lancedb.index import FTS, IvfRq

    table = generation.table
    rows = table.count_rows()
    present = {i.name: i for i in table.list_indices()}
    if not rows:
        return
    if "search_text_idx" not in present:
        table.create_index(
            "search_text",
            config=FTS(
                with_position=False, language=language, stem=True, remove_stop_words=True,
                ascii_folding=True,
            ),
        )  # fmt: skip
    if rows > EXACT_LIMIT and "vector_idx" not in present:
        table.create_index("vector", config=IvfRq(distance_type="cosine"))
    fragments = table.stats()["fragment_stats"]["num_fragments"]
    tails = [table.index_stats(name) for name in present]
    tail = max((s.num_unindexed_rows for s in tails if s is not None), default=0)
    if first or fragments > COMPACT_FRAGMENTS or tail > TAIL_ROWS:
        # nobody reads a first generation yet: its old versions can go at once
        table.optimize(cleanup_older_than=timedelta(seconds=1 if first else 3600))


def _paths(paths: list[str]) -> str:
    return "path IN (" + ", ".join("'" + p.replace("'", "''") + "'" for p in paths) + ")"


def _record(
    entry: Entry, sha: str, chunks: int, reason: str = "", status: str = "indexed"
) -> dict[str, Any]:
    return {
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "sha": sha,
        "chunks": chunks,
        "status": status,
        "reason": reason,
    }


def _date(document: Document, entry: Entry) -> datetime:
    if document.date is not None:
        return document.date.astimezone(UTC).replace(tzinfo=None)
    seconds = min(entry.mtime_ns // 1_000_000_000, 253_402_300_799)
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
