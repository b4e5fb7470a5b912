"""Indexes, hits, answers and evaluations as the screens and the CLI see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class IndexView:
    """One document index, as a list shows it."""

    name: str
    folder: str
    """The folder of documents it was made from."""
    generation: str
    model: str
    documents: int
    chunks: int
    unreadable: int
    updated: float
    """Seconds since the epoch of the newest sync."""
    size_bytes: int
    manifest: str | None = None
    stale: str = ""
    """Why it should be synced or rebuilt, or empty."""


@dataclass(frozen=True)
class FileView:
    """One file an index knows; ``reason`` tells why a file could not be read."""

    path: str
    status: str
    """``indexed``, ``unreadable`` or ``warning`` (indexed, with a remark in ``reason``)."""
    chunks: int
    size_bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, with every score before and after fusion.

    ``bm25`` is None where the chunk was not among the best by words, ``dense_rank`` where it was
    not among the best by vector; its ``cosine`` is exact in either case.
    """

    id: str
    path: str
    number: int
    start: int
    end: int
    headings: str
    text: str
    score: float
    cosine: float
    cosine_scaled: float
    bm25: float | None
    bm25_scaled: float
    bm25_rank: int | None
    dense_rank: int | None
    rerank: float | None = None

    @property
    def place(self) -> str:
        """File, heading and characters: where a citation points."""
        heading = f" § {self.headings}" if self.headings else ""
        return f"{self.path}{heading} [{self.start}:{self.end}]"


@dataclass(frozen=True)
class Retrieval:
    """The outcome of one search, best first; ``seconds`` by part."""

    query: str
    tokens: tuple[str, ...]
    """The words BM25 saw: stemmed, without stop words."""
    hits: tuple[Hit, ...]
    candidates: int
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A source as the prompt holds it: one hit, or neighbouring hits of a file joined."""

    number: int
    """From 1, as the answer cites it."""
    path: str
    headings: str
    start: int
    end: int
    text: str
    score: float
    tokens: int
    chunks: tuple[str, ...] = ()
    """Ids of the chunks it is made of."""

    @property
    def place(self) -> str:
        """File, heading and characters: where a citation points."""
        heading = f" § {self.headings}" if self.headings else ""
        return f"{self.path}{heading} [{self.start}:{self.end}]"


@dataclass(frozen=True)
class Citation:
    """One sentence of an answer, the source it names, and whether that source supports it."""

    sentence: str
    source: int
    """Number of the source in the prompt, from 1; 0 where none was named."""
    supported: bool
    lexical: float
    """Share of the sentence's content words that the source holds, 0 to 1."""
    cosine: float
    path: str = ""
    headings: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer with its verified citations; ``found`` is False for "not in these documents"."""

    question: str
    text: str
    found: bool
    citations: tuple[Citation, ...]
    sources: tuple[Passage, ...]
    model: str
    prompt: str
    prompt_tokens: int
    budget_tokens: int
    left_out: tuple[str, ...] = ()
    """Chunks that were found and did not fit the budget, with the reason."""
    reason: str = ""
    """Why it is "not in these documents", where it is not."""
    quotes: tuple[Citation, ...] = ()
    """The answer, word for word from the sources, where the model did not keep to them."""
    seconds: dict[str, float] = field(default_factory=dict)
    context_tokens: int = 0
    """Of ``budget_tokens``: what the sources found for this question take (a conversation's earlier
    ones come on top)."""
    searched: str = ""
    """What was searched for: a short follow-up goes together with the question before it."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of one configuration on a set of queries.

    ``metrics`` maps a metric to (mean, low, high): the bounds are a 95 % bootstrap interval over
    the queries. ``per_query`` has one row a query.
    """

    name: str
    queries: int
    documents: int
    metrics: dict[str, tuple[float, float, float]]
    latency_ms: dict[str, float]
    per_query: tuple[dict[str, Any], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    questions: str = "real"
    """``real``, or ``generated`` by a model: the two are never measured together."""
    missing: int = 0
    """Relevant documents that the index does not hold: they count as not found."""
