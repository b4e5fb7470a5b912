from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.retrieve import Retriever
from recipes.rag.store import Generation, open_index

WORDS = (
    "cat cats the is running runner house_key it's don't 3.14 state-of-the-art naïve École café "
    "STRASSE Straße über Ωμέγα кошка 猫 हिन्दी x² ½ ﬁsh bird birds swimming of and under_score "
) + "a" * 45


@pytest.fixture
def generation(paths: StatePaths, tmp_path: Path) -> Generation:
    folder = tmp_path / "mixed"
    folder.mkdir()
    draw = random.Random(7)
    for number in range(60):
        text = " ".join(draw.choices(WORDS.split(), k=draw.randint(3, 40)))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    sync_index(Job("mixed", folder), paths)
    return open_index("mixed", paths)


def by_lancedb(generation: Generation, query: str) -> dict[int, float]:
    from lancedb.query import MatchQuery

    search = generation.table.search(MatchQuery(query, "search_text"), query_type="fts")
    found = search.select(["_score"]).with_row_id(True).limit(1_000).to_arrow()
    return dict(zip(found["_rowid"].to_pylist(), found["_score"].to_pylist(), strict=True))


def test_scores_are_those_of_lancedb(generation: Generation, embedder: Embedder) -> None:
    """Every kind of word, alone and mixed: repeated, unknown, foreign, stop words, marks."""
    retriever = Retriever(generation, embedder)
    draw = random.Random(1)
    mixed = [" ".join(draw.choices(WORDS.split(), k=6)) for _ in range(12)]
    unknown = ["zebra", "swims bird", "cat-cat cat", "the", "señor cat", "ﬁsh🙂bird", "swam Café"]
    for query in [*WORDS.split(), *mixed, *unknown]:
        ours = retriever._by_words(query, "", 1_000, retriever._snapshot())
        theirs = by_lancedb(generation, query)
        assert ours == pytest.approx(theirs, rel=1e-4), query


def test_the_best_are_the_first_and_a_filter_holds(
    generation: Generation, embedder: Embedder
) -> None:
    retriever = Retriever(generation, embedder)
    every = retriever._by_words("cat bird running", "", 1_000, retriever._snapshot())
    assert list(every.values()) == sorted(every.values(), reverse=True)
    best = retriever._by_words("cat bird running", "", 5, retriever._snapshot())
    assert list(best.values()) == list(every.values())[:5]
    some = retriever._by_words(
        "cat bird running", "path = '3.txt' OR path = '4.txt'", 1_000, retriever._snapshot()
    )
    assert set(some) < set(every)
    assert len(some) <= 2
