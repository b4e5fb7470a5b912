"""A million chunks: time to index, recall@10 of the vector index against exact search, latency.

The vectors are mixtures of real sentence embeddings (two bundled texts each, with noise), the texts
are mixtures of their words; queries are mixtures that are not in the table. Usage: ``python -m
benchmarks rag_million`` or ``python -m benchmarks.rag_million 200000``.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pyarrow as pa

import assets
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.chunking import chunk_text
from recipes.rag.embedding import Embedder
from recipes.rag.retrieve import Retriever
from recipes.rag.store import Generation, Meta, schema
from recipes.rag.sync import maintain

BATCH = 50_000
QUERIES = 200
NOISE = 0.35


def seeds(embedder: Embedder) -> tuple[list[list[str]], np.ndarray]:
    """Words and vectors of every chunk of the bundled texts."""
    texts = []
    for file in sorted((Path(assets.__file__).parent / "data").rglob("*")):
        if file.suffix in {".md", ".txt", ".jsonl"}:
            text = file.read_text(encoding="utf-8")
            chunks = chunk_text(text, embedder.tokenizer, size=48, overlap=0)
            texts += [text[c.start : c.end] for c in chunks]
    return [t.split() for t in texts], embedder.encode(texts)


def mixtures(rng: np.random.Generator, base: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """(vectors, first parent, second parent): shape (count, dimensions) and twice (count,)."""
    one, two = rng.integers(0, len(base), (2, count))
    share = rng.uniform(0.3, 0.7, (count, 1)).astype(np.float32)
    noise = rng.standard_normal((count, base.shape[1]), dtype=np.float32)
    noise *= NOISE / np.sqrt(base.shape[1])
    vectors = share * base[one] + (1 - share) * base[two] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), one, two


def fill(generation: Generation, rows: int, words: list[list[str]], base: np.ndarray) -> None:
    """Add ``rows`` chunks in commits of ``BATCH``."""
    rng = np.random.default_rng(1)
    fields = schema(base.shape[1])
    for begin in range(0, rows, BATCH):
        count = min(BATCH, rows - begin)
        vectors, one, two = mixtures(rng, base, count)
        texts = [" ".join(words[a][:20] + words[b][-20:]) for a, b in zip(one, two, strict=True)]
        numbers = range(begin, begin + count)
        columns = {
            "id": pa.array([f"{n:024d}:000000" for n in numbers]),
            "path": pa.array([f"f{n}.md" for n in numbers]),
            "number": pa.array([0] * count, pa.int32()),
            "start": pa.array([0] * count, pa.int64()),
            "end": pa.array([len(t) for t in texts], pa.int64()),
            "headings": pa.array([""] * count),
            "prefix": pa.array([0] * count, pa.int32()),
            "search_text": pa.array(texts),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), base.shape[1]),
        }
        arrays = [
            columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type)
            for f in fields
        ]
        generation.table.add(pa.Table.from_arrays(arrays, schema=fields))


def exact(rows: int, base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Numbers of the ten nearest rows of each query, made again from the same seed."""
    rng = np.random.default_rng(1)
    best = np.full((len(queries), 10), -np.inf, dtype=np.float32)
    ids = np.zeros((len(queries), 10), dtype=np.int64)
    for begin in range(0, rows, BATCH):
        count = min(BATCH, rows - begin)
        vectors, _, _ = mixtures(rng, base, count)
        scores = np.concatenate([best, queries @ vectors.T], axis=1)
        known = np.concatenate(
            [ids, np.broadcast_to(np.arange(begin, begin + count), (len(queries), count))], axis=1
        )
        top = np.argpartition(-scores, 10, axis=1)[:, :10]
        best = np.take_along_axis(scores, top, axis=1)
        ids = np.take_along_axis(known, top, axis=1)
    return ids


def main() -> int:
    """Print the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as scratch:
        paths = StatePaths(Path(scratch)).ensure()
        embedder = Embedder(resolve_model("all-minilm-l6-v2", paths))
        words, base = seeds(embedder)
        generation = Generation(Path(scratch) / "g0001", "million")
        generation.create(Meta(embedder.fingerprint, 128, 32, "English", scratch))
        began, cpu = time.perf_counter(), time.process_time()
        fill(generation, rows, words, base)
        filled, filled_cpu = time.perf_counter() - began, time.process_time() - cpu
        began, cpu = time.perf_counter(), time.process_time()
        maintain(generation, "English", first=True)
        built, built_cpu = time.perf_counter() - began, time.process_time() - cpu
        vectors, one, two = mixtures(np.random.default_rng(2), base, QUERIES)
        retriever = Retriever(generation, embedder)
        texts = [" ".join(words[a][:6] + words[b][-6:]) for a, b in zip(one, two, strict=True)]
        retriever.search(texts[0], 10, vector=vectors[0])
        wall, used, found = [], [], []
        for text, vector in zip(texts, vectors, strict=True):
            began, cpu = time.perf_counter(), time.process_time()
            retriever.search(text, 10, vector=vector)
            wall.append(time.perf_counter() - began)
            used.append(time.process_time() - cpu)
            dense = retriever.nearest(vector, 10)
            found.append({int(path[1:-3]) for path in dense})
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = generation.size_bytes() / 2**30
        truth = exact(rows, base, vectors)
        recall = np.mean([len(f & set(t.tolist())) / 10 for f, t in zip(found, truth, strict=True)])
        print(f"## {rows:,} chunks\n\n| | |\n|---|---|")
        print(f"| rows written | {filled:.0f} s ({filled_cpu:.0f} CPU-s, with making the rows) |")
        print(f"| word and vector index, compaction | {built:.0f} s ({built_cpu:.0f} CPU-s) |")
        print(f"| recall@10 of the vector search against exact | {recall:.3f} |")
        print(f"| hybrid search p50 / p95 | {np.median(wall) * 1e3:.0f} / ", end="")
        print(f"{np.percentile(wall, 95) * 1e3:.0f} ms, {np.mean(used) * 1e3:.0f} CPU-ms |")
        print(f"| peak memory of the process, all of the above | {memory:.1f} GiB |")
        print(f"| on disk | {size:.1f} GiB |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
