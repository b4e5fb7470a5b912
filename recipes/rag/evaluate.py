"""How well a configuration finds: nDCG@10, recall@k, MRR, latency, with bootstrap intervals.

Reads BEIR-like folders as they are: ``docs.jsonl`` or ``corpus.jsonl``, ``queries.jsonl``, and
``qrels.tsv`` or ``qrels/test.tsv``. A document ranks by its best chunk.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound
from engine.types.rag import Evaluation
from recipes.rag.retrieve import Retriever, Settings

BOOTSTRAP = 2_000
K_VALUES = (1, 5, 10, 20)
_COLLECTION = (
    "a collection is queries.jsonl and qrels.tsv (or qrels/test.tsv): docs/rag.md, Measure"
)


@dataclass(frozen=True)
class Queries:
    """Queries with graded relevance: ``qrels[query][document] = grade``, 0 for not relevant."""

    texts: dict[str, str]
    qrels: dict[str, dict[str, int]]
    generated: frozenset[str] = frozenset()
    """Questions a model made up: never reported together with real ones."""

    def judged(self) -> list[str]:
        """The queries that have a relevant document."""
        return [q for q in self.texts if any(g > 0 for g in self.qrels.get(q, {}).values())]

    def apart(self) -> dict[str, Queries]:
        """``real`` and ``generated``: each with its own questions; a kind without any is absent."""
        parts = {}
        for name in ("real", "generated"):
            texts = {
                query: text
                for query, text in self.texts.items()
                if (query in self.generated) == (name == "generated")
            }
            if texts:
                parts[name] = Queries(texts, self.qrels, self.generated & set(texts))
        return parts


def read_queries(folder: Path) -> Queries:
    """The queries and judgements of a collection.

    Raises:
        NotFound: a file is missing.
        BadInput: a broken line, by its number.
    """
    texts: dict[str, str] = {}
    generated: set[str] = set()
    file = folder / "queries.jsonl"
    if not file.is_file():
        raise NotFound(f"{folder} has no queries.jsonl", hint=_COLLECTION)
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                query = str(row.get("id", row.get("_id")))
                texts[query] = str(row["text"])
                if row.get("generated"):
                    generated.add(query)
            except (ValueError, KeyError, AttributeError) as error:
                raise BadInput(
                    f"queries.jsonl:{number} is not a query",
                    why=str(error),
                    hint='a line is {"id": ..., "text": ...}',
                ) from error
    return Queries(texts, _read_qrels(folder), frozenset(generated))


def _read_qrels(folder: Path) -> dict[str, dict[str, int]]:
    names = ("qrels.tsv", "qrels/test.tsv", "qrels/dev.tsv")
    file = next((folder / n for n in names if (folder / n).is_file()), None)
    if file is None:
        raise NotFound(f"{folder} has no qrels.tsv", hint=_COLLECTION)
    found: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t"), 1):
            if not row or (number == 1 and not row[-1].strip().lstrip("-").isdigit()):
                continue
            try:
                # TREC files have a column of zeros in the middle
                query, document, grade = row[0], row[-2], int(row[-1])
            except (IndexError, ValueError) as error:
                raise BadInput(
                    f"{file.name}:{number} is no judgement",
                    why=str(error),
                    hint="a line is query, document and grade, with tabs between",
                ) from error
            found.setdefault(query, {})[document] = max(grade, 0)
    return found


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """Normalized discounted cumulative gain with linear gain, as pytrec_eval's ``ndcg_cut``."""
    gain = sum(grades.get(d, 0) / math.log2(i + 2) for i, d in enumerate(ranking[:k]))
    best = sorted((g for g in grades.values() if g > 0), reverse=True)[:k]
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(best))
    return gain / ideal if ideal else 0.0


def recall(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents among the first ``k``."""
    relevant = {d for d, g in grades.items() if g > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Mapping[str, int], k: int = 10) -> float:
    """1 / rank of the first relevant document among the first ``k``, else 0."""
    ranks = (i for i, d in enumerate(ranking[:k], 1) if grades.get(d, 0) > 0)
    return 1 / next(ranks, math.inf)


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): percentile bootstrap over queries, 95 %, 2,000 resamples."""
    import numpy as np

    if not values:
        return 0.0, 0.0, 0.0
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), size=(BOOTSTRAP, len(data)))
    means = data[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(data.mean()), float(low), float(high)


def evaluate(
    retriever: Retriever,
    queries: Queries,
    settings: Settings | None = None,
    *,
    name: str = "hybrid",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run every judged query through the pipeline.

    Args:
        retriever: the index to measure.
        queries: with their judgements, all real or all generated (``Queries.apart``); those
            without a relevant document are left out.
        settings: the configuration.
        name: of the configuration, for tables.
        progress: called with (done, total).

    Raises:
        BadInput: no query has a relevant document in the index, or the set is mixed.
    """
    settings = settings or Settings()
    if 0 < len(queries.generated) < len(queries.texts):
        raise BadInput("real and generated questions are not measured together")
    judged = queries.judged()
    if not judged:
        raise BadInput(
            "no query has a relevant document", why="the ids of qrels fit none", hint=_COLLECTION
        )
    rows: list[dict[str, Any]] = []
    times = []
    for done, query in enumerate(judged, 1):
        began, cpu = time.perf_counter(), time.process_time()
        found = retriever.search(queries.texts[query], 10 * max(K_VALUES), None, settings)
        wall, used = time.perf_counter() - began, time.process_time() - cpu
        times.append((wall, used))
        grades = queries.qrels[query]
        ranking = list(dict.fromkeys(hit.path for hit in found.hits))
        row: dict[str, Any] = {"query": query, "text": queries.texts[query]}
        row["ndcg@10"] = ndcg(ranking, grades)
        row["mrr@10"] = reciprocal_rank(ranking, grades)
        row.update({f"recall@{k}": recall(ranking, grades, k) for k in K_VALUES})
        first = next((i for i, d in enumerate(ranking, 1) if grades.get(d, 0) > 0), None)
        row.update(first_relevant=first, milliseconds=round(wall * 1000, 2))
        rows.append(row)
        if progress is not None:
            progress(done, len(judged))
    known = set(retriever.generation.files["files"])
    relevant = {d for q in judged for d, g in queries.qrels[q].items() if g > 0}
    metrics = ("ndcg@10", "mrr@10", *(f"recall@{k}" for k in K_VALUES))
    return Evaluation(
        name=name,
        queries=len(judged),
        documents=len({d for g in queries.qrels.values() for d in g}),
        metrics={m: bootstrap([r[m] for r in rows]) for m in metrics},
        latency_ms=_latency(times),
        per_query=tuple(rows),
        settings=asdict(settings),
        questions="generated" if queries.generated else "real",
        missing=len(relevant - known),
    )


def _latency(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    walls = sorted(w for w, _ in times)
    return {
        "p50": round(walls[len(walls) // 2] * 1000, 2),
        "p95": round(walls[min(len(walls) - 1, int(len(walls) * 0.95))] * 1000, 2),
        "cpu_mean": round(sum(c for _, c in times) / len(times) * 1000, 2),
    }


def compare(a: Evaluation, b: Evaluation, metric: str = "ndcg@10") -> dict[str, Any]:
    """A/B: the paired difference with its interval, and the queries that differ most."""
    before = {r["query"]: r for r in a.per_query}
    pairs = [(before[r["query"]], r) for r in b.per_query if r["query"] in before]
    differences = [two[metric] - one[metric] for one, two in pairs]
    mean, low, high = bootstrap(differences)
    differing = sorted(
        (
            {
                "query": two["query"],
                "text": two["text"],
                a.name: round(one[metric], 4),
                b.name: round(two[metric], 4),
                "difference": round(two[metric] - one[metric], 4),
            }
            for one, two in pairs
            if one[metric] != two[metric]
        ),
        key=lambda r: -abs(float(r["difference"])),
    )
    return {
        "metric": metric,
        "a": a.name,
        "b": b.name,
        "difference": mean,
        "low": low,
        "high": high,
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
        "equal": sum(d == 0 for d in differences),
        "queries": differing,
    }
