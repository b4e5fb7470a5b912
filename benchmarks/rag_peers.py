"""Indexing and hybrid asking against peers, with the same texts and the same vectors, in one run.

The peers need an environment of their own beside this one: chromadb, haystack-ai, txtai,
llama-index-core, llama-index-retrievers-bm25; those that are not there are named and left out. The
texts come from a Zipf vocabulary, the vectors are random: speed only; quality is ``rag_quality``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

import numpy as np
import pyarrow as pa

from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.retrieve import Retriever
from recipes.rag.store import Generation, Meta, schema
from recipes.rag.sync import maintain

ROWS = 10_000
QUERIES = 50
ROUNDS = 5
DIMENSIONS = 384

Query = Callable[[str, np.ndarray], object]
Make = Callable[[list[str], np.ndarray, Path], Query]


def data() -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Texts, vectors, queries, their vectors; the same at every run."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{n}" for n in range(20_000)])
    weights = 1 / np.arange(1, len(words) + 1)
    weights /= weights.sum()
    texts = [" ".join(rng.choice(words, 60, p=weights)) for _ in range(ROWS)]
    queries = [" ".join(rng.choice(words, 8, p=weights)) for _ in range(QUERIES)]
    vectors = rng.standard_normal((ROWS + QUERIES, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return texts, vectors[:ROWS], queries, vectors[ROWS:]


def ours(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """A generation as ``rag sync`` makes it, on disk."""
    embedder = Embedder(resolve_model("all-minilm-l6-v2", StatePaths(scratch)))
    generation = Generation(scratch / "ours", "ours")
    generation.create(Meta(embedder.fingerprint, 128, 32, "English", str(scratch)))
    fields = schema(DIMENSIONS)
    columns: dict[str, Any] = {
        "id": pa.array([f"{n:030d}" for n in range(len(texts))]),
        "path": pa.array([f"{n}.md" for n in range(len(texts))]),
        "search_text": pa.array(texts),
        "headings": pa.array([""] * len(texts)),
        "prefix": pa.array([0] * len(texts), pa.int32()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSIONS),
    }
    arrays = [
        columns[f.name].cast(f.type) if f.name in columns else pa.nulls(len(texts), f.type)
        for f in fields
    ]
    generation.table.add(pa.Table.from_arrays(arrays, schema=fields))
    maintain(generation, "English", first=True)
    retriever = Retriever(generation, embedder)
    return lambda text, vector: retriever.search(text, 10, vector=vector)


def raw_lancedb(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """LanceDB's own hybrid search with its default fusion, on disk."""
    import lancedb
    from lancedb.index import FTS
    from lancedb.rerankers import RRFReranker

    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSIONS)
    table = lancedb.connect(scratch / "raw").create_table(
        "t", pa.table({"x": texts, "vector": flat})
    )
    table.create_index("x", config=FTS(with_position=False))
    reranker = RRFReranker()

    def ask(text: str, vector: np.ndarray) -> object:
        search = table.search(query_type="hybrid", vector_column_name="vector")
        search = search.vector(vector).text(text).distance_type("cosine").rerank(reranker)
        return search.limit(10).to_arrow()

    return ask


def txtai(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """txtai, hybrid, vectors from outside."""
    from txtai import Embeddings

    known = dict(zip(texts, vectors, strict=True))
    peer = Embeddings(
        method="external", transform=lambda items: np.array([known[i] for i in items]), hybrid=True
    )
    peer.index([(n, text, None) for n, text in enumerate(texts)])

    def ask(text: str, vector: np.ndarray) -> object:
        known[text] = vector
        return peer.search(text, 10)

    return ask


def haystack(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """haystack, in memory, reciprocal rank fusion."""
    from haystack import Document
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    rows = zip(texts, vectors, strict=True)
    store.write_documents(
        [Document(id=str(n), content=t, embedding=v.tolist()) for n, (t, v) in enumerate(rows)]
    )
    words, dense = InMemoryBM25Retriever(store), InMemoryEmbeddingRetriever(store)
    joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion")

    def ask(text: str, vector: np.ndarray) -> object:
        one = words.run(query=text, top_k=100)["documents"]
        two = dense.run(query_embedding=vector.tolist(), top_k=100)["documents"]
        return joiner.run(documents=[one, two])["documents"][:10]

    return ask


def llama_index(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """LlamaIndex, in memory: its vector store and its BM25 retriever, fused by rank."""
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery
    from llama_index.retrievers.bm25 import BM25Retriever

    nodes = [
        TextNode(id_=str(n), text=t, embedding=v.tolist())
        for n, (t, v) in enumerate(zip(texts, vectors, strict=True))
    ]
    store = SimpleVectorStore()
    store.add(nodes)
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=100)

    def ask(text: str, vector: np.ndarray) -> object:
        request = VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=100)
        lists = [list(store.query(request).ids or []), [n.node_id for n in words.retrieve(text)]]
        scores: dict[str, float] = {}
        for ranked in lists:
            for rank, name in enumerate(ranked, 1):
                scores[name] = scores.get(name, 0) + 1 / (60 + rank)
        return sorted(scores, key=lambda n: -scores[n])[:10]

    return ask


def chroma(texts: list[str], vectors: np.ndarray, scratch: Path) -> Query:
    """chroma on disk; it has no word search in its open form: by vector alone."""
    import chromadb

    client = chromadb.PersistentClient(str(scratch / "chroma"))
    collection = client.create_collection("documents", metadata={"hnsw:space": "cosine"})
    for begin in range(0, len(texts), 5_000):
        part = slice(begin, begin + 5_000)
        names = [str(n) for n in range(begin, begin + len(texts[part]))]
        collection.add(ids=names, embeddings=vectors[part], documents=texts[part])
    return lambda text, vector: collection.query(query_embeddings=[vector], n_results=10)


PEERS: dict[str, tuple[str, Make]] = {
    "ours": ("lancedb", ours),
    "raw LanceDB": ("lancedb", raw_lancedb),
    "txtai": ("txtai", txtai),
    "chroma (vector only)": ("chromadb", chroma),
    "haystack": ("haystack", haystack),
    "LlamaIndex": ("llama_index", llama_index),
}


def indexed(make: Make, texts: list[str], vectors: np.ndarray, scratch: Path) -> float:
    """Documents per CPU second of one making."""
    cpu = time.process_time()
    make(texts, vectors, scratch)
    return len(texts) / (time.process_time() - cpu)


def main() -> int:
    """Print the table."""
    texts, vectors, queries, asked = data()
    peers = {n: make for n, (module, make) in PEERS.items() if importlib.util.find_spec(module)}
    print(f"## Peers: {ROWS:,} documents, same vectors, {ROUNDS} rounds, the peers in turn\n")
    print(f"Not installed here: {', '.join(sorted(set(PEERS) - set(peers))) or 'none'}\n")
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(ROUNDS + 1):
        for name, make in peers.items():
            # the first turn is a warm-up: libraries and threads
            part = slice(None) if turn else slice(200)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                rate = indexed(make, texts[part], vectors[part], Path(scratch))
            if turn:
                rates[name].append(rate)
    print("| | documents per CPU-second (median) | ours / it, each round | hybrid query, CPU ms |")
    print("|---|---|---|---|")
    for name, make in peers.items():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            ask = make(texts, vectors, Path(scratch))
            ask(queries[0], asked[0])
            cpu = time.process_time()
            for text, vector in zip(queries, asked, strict=True):
                ask(text, vector)
            used = (time.process_time() - cpu) / len(queries) * 1000
        each = [ours / it for ours, it in zip(rates["ours"], rates[name], strict=True)]
        told = f"{np.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        print(f"| {name} | {np.median(rates[name]):,.0f} | {told} | {used:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
