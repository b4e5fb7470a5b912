"""Speed of indexing and asking: embedding against sentence-transformers, hybrid search against raw
LanceDB, and a folder of 5,000 files synced again without a change.

Every pair runs in this one process, on the same texts or vectors, alternating.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

import assets
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.chunking import chunk_text, search_text
from recipes.rag.embedding import Embedder
from recipes.rag.pipeline import Job, open_retriever, sync_index
from recipes.rag.retrieve import Retriever
from recipes.rag.store import open_index

ROUNDS = 3
FILES = 5_000


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def passages(embedder: Embedder) -> list[str]:
    """The chunks of the bundled documentation, as they are indexed."""
    found = []
    for file in sorted((Path(assets.__file__).parent / "data" / "docs").glob("*.md")):
        text = file.read_text(encoding="utf-8")
        for chunk in chunk_text(text, embedder.tokenizer, title=file.stem):
            found.append(search_text(chunk.headings, text[chunk.start : chunk.end])[0])
    return found * 2


def embedding(embedder: Embedder) -> None:
    """Print documents per CPU-second of both encoders."""
    from sentence_transformers import SentenceTransformer

    texts = passages(embedder)
    peer = SentenceTransformer(str(embedder.location.path), device="cpu")
    ours, theirs = [], []
    embedder.encode(texts[:8])
    peer.encode(texts[:8], batch_size=8, show_progress_bar=False)
    for _ in range(ROUNDS):
        ours.append(timed(lambda: embedder.encode(texts))[1])
        theirs.append(timed(lambda: peer.encode(texts, batch_size=8, show_progress_bar=False))[1])
    one, two = embedder.encode(texts), peer.encode(texts, show_progress_bar=False)
    two /= np.linalg.norm(two, axis=1, keepdims=True)
    mine, other = len(texts) / min(ours), len(texts) / min(theirs)
    print(f"\n### Embedding, {len(texts)} chunks, chunks per CPU-second\n")
    print("| ours | sentence-transformers fp32 | ratio | least cosine |\n|---|---|---|---|")
    print(f"| {mine:.1f} | {other:.1f} | {mine / other:.2f} | {(one * two).sum(1).min():.4f} |")


def queries(paths: StatePaths, folder: Path) -> None:
    """Print CPU-ms of a hybrid query of ours and of LanceDB's own: same table, same vectors."""
    from lancedb.rerankers import RRFReranker

    sync_index(Job("speed", folder), paths)
    retriever = open_retriever("speed", paths)
    texts = [f"how do I change page {n} of the number {n * 7}" for n in range(60)]
    vectors = retriever.embedder.encode(texts)
    table: Any = retriever.generation.table
    reranker = RRFReranker()

    def ours() -> None:
        for text, vector in zip(texts, vectors, strict=True):
            retriever.search(text, 10, vector=vector)

    def raw() -> None:
        for text, vector in zip(texts, vectors, strict=True):
            search = table.search(query_type="hybrid", vector_column_name="vector")
            search = search.vector(vector).text(text).distance_type("cosine").rerank(reranker)
            search.limit(10).to_arrow()

    ours()
    raw()
    runs = [(timed(ours), timed(raw)) for _ in range(ROUNDS)]
    mine = min(cpu for (_, cpu), _ in runs) / len(texts) * 1000
    other = min(cpu for _, (_, cpu) in runs) / len(texts) * 1000
    wall = min(w for (w, _), _ in runs) / len(texts) * 1000
    print(f"\n### Hybrid query, {table.count_rows()} chunks, vector given\n")
    print("| ours, CPU ms | raw LanceDB hybrid, CPU ms | ours, wall ms |\n|---|---|---|")
    print(f"| {mine:.1f} | {other:.1f} | {wall:.1f} |")


def first_query(paths: StatePaths) -> None:
    """Print what opening an index and asking it once costs, of ours and of LanceDB's own.

    Ours makes its postings then; both have the libraries loaded and the file cache warm.
    """
    import lancedb
    from lancedb.rerankers import RRFReranker

    text = "how do I change page 7 of the number 49"
    once = open_retriever("speed", paths)
    vector = once.embedder.encode([text])[0]
    folder, name = once.generation.folder, once.generation.table.name
    model = resolve_model("all-minilm-l6-v2", paths)

    def ours() -> None:
        Retriever(open_index("speed", paths), Embedder(model)).search(text, 10, vector=vector)

    def raw() -> None:
        table: Any = lancedb.connect(folder).open_table(name)
        search = table.search(query_type="hybrid", vector_column_name="vector").vector(vector)
        search = search.text(text).distance_type("cosine").rerank(RRFReranker())
        search.limit(10).to_arrow()

    ours()
    raw()
    runs = [(timed(ours), timed(raw)) for _ in range(ROUNDS)]
    mine, other = (min(cpu for _, cpu in side) * 1000 for side in zip(*runs, strict=True))
    wall = min(wall for (wall, _), _ in runs) * 1000
    print(f"\n### Open and ask once, {once.generation.table.count_rows()} chunks, vector given\n")
    print("| ours, CPU ms | raw LanceDB hybrid, CPU ms | ours, wall ms |\n|---|---|---|")
    print(f"| {mine:.1f} | {other:.1f} | {wall:.1f} |")


def resync(paths: StatePaths, folder: Path) -> None:
    """Print what an unchanged folder costs."""
    first = timed(lambda: sync_index(Job("again", folder), paths))
    again = timed(lambda: sync_index(Job("again", folder), paths))
    print(f"\n### Sync of {FILES} files\n")
    print("| first, s | unchanged, s | share, wall | share, CPU |\n|---|---|---|---|")
    print(f"| {first[0]:.1f} | {again[0]:.3f} | {again[0] / first[0]:.2%} | ", end="")
    print(f"{again[1] / first[1]:.2%} |")


def main() -> int:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = StatePaths(Path(scratch) / "state").ensure()
        embedder = Embedder(resolve_model("all-minilm-l6-v2", paths))
        folder = Path(scratch) / "files"
        folder.mkdir()
        for number in range(FILES):
            text = f"# Page {number}\n\nThis page is about the number {number * 7}.\n"
            (folder / f"{number:05d}.md").write_text(text)
        print("## Speed of retrieval")
        embedding(embedder)
        resync(paths, folder)
        queries(paths, folder)
        first_query(paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
