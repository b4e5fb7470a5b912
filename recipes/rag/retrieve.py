"""The one retrieval pipeline: jobs, ``rag ask``, ``rag eval``, the API and the screen share it.

Hybrid by exact re-scoring: the union of the best by BM25 and the best by vector; exact cosine for
every candidate, min-max over the union; BM25 over its maximum; a weighted sum of the two. Measured
ahead of reciprocal rank fusion on every collection we hold (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Conflict
from engine.types.rag import Hit, Retrieval
from recipes.rag.embedding import Embedder
from recipes.rag.store import EXACT_LIMIT, Generation
from recipes.rag.words import Tokenize, Words

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_COLUMNS = ["id", "path", "number", "start", "end", "headings", "prefix", "search_text"]
#: IVF_RQ; ``REFINE`` times the asked rows are scored exactly: 500 for the usual 100 candidates
#: (20 times 100 cost 44 CPU-ms at 60,000 chunks, 5 times 16, both with recall@10 1.0)
NPROBES = 20
REFINE = 5


@dataclass(frozen=True)
class Filters:
    """Which chunks may be found; applied before the search, never after it."""

    path: str = ""
    """A glob over the path in the folder: ``reports/*.md``."""
    tags: tuple[str, ...] = ()
    """Every one of them must be on the document."""
    since: str = ""
    """ISO date: documents of this day or later."""
    until: str = ""

    def where(self) -> str:
        """The condition in LanceDB's SQL; empty for no filter.

        Raises:
            BadInput: a date that is none.
        """
        parts = []
        if self.path:
            parts.append(f"regexp_match(path, {_text(_regex(self.path))})")
        parts += [f"array_has(tags, {_text(tag)})" for tag in self.tags]
        for sign, date, clock in ((">=", self.since, "00:00:00"), ("<=", self.until, "23:59:59")):
            if date:
                parts.append(f"date {sign} timestamp '{_day(date)} {clock}'")
        return " AND ".join(parts)


def _regex(glob: str) -> str:
    """A glob as the regular expression of Rust's engine; ``*`` crosses folders."""
    wild = {"*": ".*", "?": "."}
    return "^" + "".join(wild.get(c, re.escape(c)) for c in glob) + "$"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _day(value: str) -> str:
    try:
        return datetime.fromisoformat(value).date().isoformat()
    except ValueError as error:
        raise BadInput(f"{value!r} is not a date", hint="write 2026-01-31") from error


MODES = ("hybrid", "bm25", "dense", "rrf")


@dataclass(frozen=True)
class Settings:
    """How a search scores. The defaults are the measured ones."""

    mode: str = "hybrid"
    """``hybrid``, ``bm25``, ``dense``, or ``rrf`` (reciprocal rank fusion, for comparison)."""
    candidates: int = 100
    """Taken from each of the two searches."""
    weight: float = 0.5
    """Of BM25; the cosine has the rest."""
    reranker: str = ""
    """Folder of a cross-encoder that re-orders the best ``rerank`` hits."""
    rerank: int = 30


class Retriever:
    """A generation with the model it was made by.

    Args:
        generation: the index to search.
        embedder: the query encoder.

    Raises:
        Conflict: the index was made by another model; both are named.
    """

    def __init__(self, generation: Generation, embedder: Embedder) -> None:
        self.generation = generation
        self.embedder = embedder
        made_by = generation.meta.fingerprint
        if made_by != embedder.fingerprint:
            raise Conflict(
                f"index {generation.name} was made by another embedding model",
                why=f"made by {made_by}; asked with {embedder.fingerprint}",
                hint=f"use that model, or rebuild: modelops-tui rag sync {generation.name} "
                "--rebuild",
            )
        self._kept: _Snapshot | None = None
        self._warnings: tuple[int, tuple[str, ...]] | None = None

    def search(
        self,
        query: str,
        k: int = 10,
        filters: Filters | None = None,
        settings: Settings | None = None,
        vector: NDArray[np.float32] | None = None,
        explain: bool = False,
    ) -> Retrieval:
        """The ``k`` best chunks.

        Args:
            query: plain words; nothing in it is syntax.
            k: at most this many hits.
            filters: applied before the search.
            settings: how to score.
            vector: the query's unit vector where it is already known.
            explain: also tell the words BM25 saw.

        Raises:
            BadInput: an empty query or a wrong filter.
        """
        settings = settings or Settings()
        if not query.strip():
            raise BadInput("the question is empty")
        where = (filters or Filters()).where()
        began = time.perf_counter()
        if vector is None:
            vector = self.embedder.encode([query])[0]
        embedded = time.perf_counter()
        scored = self._score(query, vector, where, settings)
        order = scored.order[: max(k, settings.rerank if settings.reranker else 0)]
        searched = time.perf_counter()
        hits = self._hits(order, scored)
        if settings.reranker:
            from recipes.rag.rerank import rerank

            few = settings.rerank
            hits = [
                *rerank(query, hits[:few], settings.reranker, self.embedder.device),
                *hits[few:],
            ]
        ended = time.perf_counter()
        return Retrieval(
            query=query,
            tokens=tuple(self.words(query)) if explain else (),
            hits=tuple(hits[:k]),
            candidates=len(scored.order),
            seconds={
                "embed": embedded - began,
                "search": searched - embedded,
                "fetch": ended - searched,
            },
            warnings=self.warnings(),
        )

    def nearest(self, vector: NDArray[np.float32], k: int = 10) -> list[str]:
        """Paths of the ``k`` chunks nearest by vector alone, best first."""
        rows = self._by_vector(vector, "", Settings().candidates, [], self._snapshot()).rows[:k]
        taken = self.generation.table.take_row_ids(rows).select(["path"]).with_row_id().to_arrow()
        known = dict(zip(taken["_rowid"].to_pylist(), taken["path"].to_pylist(), strict=True))
        return [known[row] for row in rows]

    # -- candidates -------------------------------------------------------------------------------

    def _score(
        self, query: str, vector: NDArray[np.float32], where: str, settings: Settings
    ) -> _Scored:
        import numpy as np

        words: dict[int, float] = {}
        # asked once: each look at the table's version is a hop to another thread and back
        kept = self._snapshot()
        if settings.mode != "dense":
            words = self._by_words(query, where, settings.candidates, kept)
        dense = self._by_vector(vector, where, settings.candidates, list(words), kept)
        rows = list(dict.fromkeys([*words, *dense.rows])) if settings.mode != "bm25" else [*words]
        rows = [row for row in rows if row in dense.cosine]
        cosine = np.array([dense.cosine[row] for row in rows], dtype=np.float64)
        span = float(cosine.max() - cosine.min()) if rows else 0.0
        scaled = (cosine - cosine.min()) / span if span > 0 else np.ones(len(rows))
        top = max(words.values(), default=1.0) or 1.0
        lexical = np.array([words.get(row, 0.0) / top for row in rows])
        word_rank = {row: rank for rank, row in enumerate(words, 1)}
        dense_rank = {row: rank for rank, row in enumerate(dense.rows, 1)}
        if settings.mode == "rrf":
            final = np.array(
                [
                    sum(1 / (60 + r[row]) for r in (word_rank, dense_rank) if row in r)
                    for row in rows
                ]
            )
        else:
            weight = {"bm25": 1.0, "dense": 0.0}.get(settings.mode, settings.weight)
            final = weight * lexical + (1 - weight) * scaled
        order = [int(i) for i in np.argsort(-final, kind="stable")]
        return _Scored(
            order=[rows[i] for i in order],
            score={rows[i]: float(final[i]) for i in order},
            cosine={
                row: (dense.cosine[row], float(s)) for row, s in zip(rows, scaled, strict=True)
            },
            words=words,
            top=top,
            word_rank=word_rank,
            dense_rank=dense_rank,
        )

    def _by_words(
        self, query: str, where: str, limit: int, snapshot: _Snapshot | None
    ) -> dict[int, float]:
        """Row ids by BM25 with their scores, best first."""
        if snapshot is not None:
            return self._by_kept_words(snapshot, query, where, limit)
        from lancedb.query import MatchQuery

        search = self.generation.table.search(MatchQuery(query, "search_text"), query_type="fts")
        if where:
            search = search.where(where, prefilter=True)
        found = search.select(["_score"]).with_row_id(True).limit(limit).to_arrow()
        return dict(zip(found["_rowid"].to_pylist(), found["_score"].to_pylist(), strict=True))

    def _by_kept_words(
        self, snapshot: _Snapshot, query: str, where: str, limit: int
    ) -> dict[int, float]:
        import numpy as np

        scores = snapshot.words.scores(query)
        if where:
            scores = np.where(self._allowed(snapshot, where), scores, 0.0)
        places = np.flatnonzero(scores)
        if len(places) > limit:
            places = places[np.argpartition(-scores[places], limit - 1)[:limit]]
        places = places[np.lexsort((places, -scores[places]))]
        found = zip(snapshot.rows[places].tolist(), scores[places].tolist(), strict=True)
        return dict(found)

    def _allowed(self, snapshot: _Snapshot, where: str) -> NDArray[np.bool_]:
        """Which chunks a filter lets through, shape (chunks,)."""
        import numpy as np

        allowed = self.generation.table.search().where(where).select(["number"])
        rows = allowed.with_row_id(True).to_arrow()["_rowid"].to_numpy()
        return np.isin(snapshot.rows, rows)

    def _by_vector(
        self,
        vector: NDArray[np.float32],
        where: str,
        limit: int,
        also: list[int],
        snapshot: _Snapshot | None,
    ) -> _Dense:
        """Row ids by cosine, best first; and the exact cosine of them and of ``also``."""
        import numpy as np

        if snapshot is None:
            return self._by_index(vector, where, limit, also)
        rows, matrix = snapshot.rows, snapshot.matrix
        # not BLAS: for one vector its threads cost more than they save (8 ms against 17)
        cosine = np.einsum("ij,j->i", matrix, vector)
        places: Any = np.searchsorted(rows, np.asarray(also, dtype=np.int64))
        # a row that came after the vectors were read is left to the next search
        exact = {
            row: float(cosine[place])
            for row, place in zip(also, places.tolist(), strict=True)
            if place < len(rows) and rows[place] == row
        }
        if where:
            cosine = np.where(self._allowed(snapshot, where), cosine, -np.inf)
        count = min(limit, int(np.isfinite(cosine).sum()))
        best = np.argpartition(-cosine, count - 1)[:count] if count else np.array([], dtype=int)
        best = best[np.argsort(-cosine[best], kind="stable")]
        chosen = [int(rows[at]) for at in best]
        exact.update(zip(chosen, (float(cosine[at]) for at in best), strict=True))
        return _Dense(chosen, exact)

    def _by_index(
        self, vector: NDArray[np.float32], where: str, limit: int, also: list[int]
    ) -> _Dense:
        table = self.generation.table
        search = table.search(vector, vector_column_name="vector").distance_type("cosine")
        search = search.nprobes(NPROBES).refine_factor(REFINE)
        if where:
            search = search.where(where, prefilter=True)
        found = search.select(["_distance"]).with_row_id(True).limit(limit).to_arrow()
        rows = found["_rowid"].to_pylist()
        exact = dict(zip(rows, (1 - d for d in found["_distance"].to_pylist()), strict=True))
        missing = [row for row in also if row not in exact]
        if missing:
            taken = table.take_row_ids(missing).select(["vector"]).with_row_id().to_arrow()
            cosine = _matrix(taken["vector"]) @ vector
            exact.update(zip(taken["_rowid"].to_pylist(), map(float, cosine), strict=True))
        return _Dense(rows, exact)

    def _snapshot(self) -> _Snapshot | None:
        """The table in memory until it changes, or None above ``EXACT_LIMIT`` chunks."""
        table = self.generation.table
        version = int(table.version)
        if self._kept is None or self._kept.version != version:
            if table.count_rows() > EXACT_LIMIT:
                self._kept = None
                return None
            found = table.search().select([*_COLUMNS, "vector"]).with_row_id(True).to_arrow()
            found = found.sort_by("_rowid").combine_chunks()
            rows, matrix = found["_rowid"].to_numpy(), _matrix(found["vector"])
            words = Words(found["search_text"].to_pylist(), self._tokenizer())
            self._kept = _Snapshot(version, rows, matrix, found.drop_columns(["vector"]), words)
        return self._kept

    # -- results ----------------------------------------------------------------------------------

    def _hits(self, rows: Sequence[int], scored: _Scored) -> list[Hit]:
        if not rows:
            return []
        records = {int(r["_rowid"]): r for r in self._records(rows)}
        hits = []
        for row in rows:
            record = records[row]
            words = scored.words.get(row)
            hits.append(
                Hit(
                    id=record["id"],
                    path=record["path"],
                    number=record["number"],
                    start=record["start"],
                    end=record["end"],
                    headings=record["headings"],
                    text=record["search_text"][record["prefix"] :],
                    score=scored.score[row],
                    cosine=scored.cosine[row][0],
                    cosine_scaled=scored.cosine[row][1],
                    bm25=words,
                    bm25_scaled=(words or 0.0) / scored.top,
                    bm25_rank=scored.word_rank.get(row),
                    dense_rank=scored.dense_rank.get(row),
                )
            )
        return hits

    def _records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        import numpy as np

        if self._kept is not None:
            places = np.searchsorted(self._kept.rows, np.asarray(rows))
            kept: list[dict[str, Any]] = self._kept.columns.take(places).to_pylist()
            return kept
        taken = self.generation.table.take_row_ids(list(rows)).select(_COLUMNS).with_row_id()
        read: list[dict[str, Any]] = taken.to_arrow().to_pylist()
        return read

    def words(self, text: str) -> list[str]:
        """The tokens BM25 sees: lower case, stemmed, without stop words."""
        return [t.text for t in self._tokenizer()(text)]

    def _tokenizer(self) -> Tokenize:
        """That of the word index."""
        table = self.generation.table
        index = next((i for i in table.list_indices() if "FTS" in str(i)), None)
        if index is None:  # an empty table: nothing is found, whatever the words
            return lambda text: ()
        return lambda text: table.tokenize(text, index_name=index.name)

    def warnings(self) -> tuple[str, ...]:
        """What a reader should know of the index: rows that no text index covers yet."""
        table = self.generation.table
        version = self._kept.version if self._kept is not None else int(table.version)
        if self._warnings is not None and self._warnings[0] == version:
            return self._warnings[1]
        told = []
        for index in table.list_indices():
            stats = table.index_stats(index.name)
            if stats is not None and stats.num_unindexed_rows > EXACT_LIMIT // 10:
                told.append(f"{stats.num_unindexed_rows} chunks are not in {index.name} yet")
        self._warnings = (version, tuple(told))
        return self._warnings[1]


@dataclass(frozen=True)
class _Snapshot:
    """Every chunk of a table version: 77 MB of vectors and some 40 MB of text at 50,000."""

    version: int
    rows: NDArray[np.int64]
    """Row ids, ascending."""
    matrix: NDArray[np.float32]
    columns: pa.Table
    words: Words
    """Their BM25: 8 bytes for each different word of a chunk, some 25 MB at 50,000."""


@dataclass(frozen=True)
class _Dense:
    rows: list[int]
    cosine: dict[int, float]


@dataclass(frozen=True)
class _Scored:
    order: list[int]
    score: dict[int, float]
    cosine: dict[int, tuple[float, float]]
    words: dict[int, float]
    top: float
    word_rank: dict[int, int]
    dense_rank: dict[int, int]


def _matrix(column: Any) -> NDArray[np.float32]:
    """A column of fixed-size lists as a matrix, shape (rows, dimensions)."""
    import numpy as np

    if len(column) == 0:
        return np.zeros((0, 1), dtype=np.float32)
    width = column.type.list_size
    flat = np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks])
    return flat.astype(np.float32, copy=False).reshape(-1, width)
