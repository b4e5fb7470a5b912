from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput, Conflict
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.retrieve import Filters, Retriever, Settings
from recipes.rag.store import open_index


@pytest.fixture
def retriever(paths: StatePaths, library: Path, embedder: Embedder) -> Retriever:
    sync_index(Job("library", library, tags={"*.txt": ["kitchen"]}), paths)
    return Retriever(open_index("library", paths), embedder)


def paths_of(retriever: Retriever, query: str, **filters: object) -> list[str]:
    chosen = Filters(**filters)  # type: ignore[arg-type]
    return [hit.path for hit in retriever.search(query, 10, chosen).hits]


def test_the_best_passage_with_its_exact_span(retriever: Retriever, library: Path) -> None:
    hit = retriever.search("what do penguins eat", 1).hits[0]
    assert (hit.path, hit.headings) == ("animals/penguins.md", "Penguins > Food")
    assert (library / hit.path).read_text()[hit.start : hit.end] == hit.text


def test_scores_are_the_documented_formula(retriever: Retriever, embedder: Embedder) -> None:
    """Min-max of exact cosines over the union, BM25 over its maximum, half and half."""
    query = "birds that swim"
    hits = retriever.search(query, 10).hits
    vector = embedder.encode([query])[0]
    texts = [f"{h.headings}\n{h.text}" for h in hits]
    cosines = embedder.encode(texts) @ vector
    np.testing.assert_allclose([h.cosine for h in hits], cosines, atol=0.02)
    low, high = min(h.cosine for h in hits), max(h.cosine for h in hits)
    top = max(h.bm25 or 0 for h in hits)
    for hit in hits:
        assert hit.cosine_scaled == pytest.approx((hit.cosine - low) / (high - low), abs=1e-5)
        assert hit.bm25_scaled == pytest.approx((hit.bm25 or 0) / top, abs=1e-5)
        both = 0.5 * hit.bm25_scaled + 0.5 * hit.cosine_scaled
        assert hit.score == pytest.approx(both, abs=1e-5)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_filters_apply_before_the_search(retriever: Retriever) -> None:
    query = "penguins eat krill"
    assert set(paths_of(retriever, query, path="*.txt")) == {"bread.txt"}
    assert set(paths_of(retriever, query, tags=("kitchen",))) == {"bread.txt"}
    assert set(paths_of(retriever, query, tags=("birds", "cold"))) == {"animals/penguins.md"}
    assert set(paths_of(retriever, query, until="2020-12-31")) == {"animals/penguins.md"}
    assert "animals/penguins.md" not in paths_of(retriever, query, since="2020-05-02")
    assert paths_of(retriever, query, path="it's/*") == []


def test_a_wrong_date_is_told(retriever: Retriever) -> None:
    with pytest.raises(BadInput, match="not a date"):
        retriever.search("x", 1, Filters(since="yesterday"))


@pytest.mark.parametrize("query", ['"', "AND OR NOT", "a:b (c", "' OR 1=1 --", "*?~^", "🙂", "the"])
def test_a_query_has_no_syntax(retriever: Retriever, query: str) -> None:
    assert len(retriever.search(query, 3).hits) == 3


def test_an_empty_query_is_refused(retriever: Retriever) -> None:
    with pytest.raises(BadInput):
        retriever.search("  ", 3)


@pytest.mark.parametrize("mode", ["bm25", "dense", "rrf", "hybrid"])
def test_every_mode_finds_the_obvious(retriever: Retriever, mode: str) -> None:
    hits = retriever.search("cats purr", 3, None, Settings(mode=mode)).hits
    assert hits[0].path == "animals/cats.md"


def test_another_model_is_refused_with_both_names(retriever: Retriever, embedder: Embedder) -> None:
    other = Embedder(embedder.location)
    other.__dict__["fingerprint"] = dataclasses.replace(embedder.fingerprint, model="other-model")
    with pytest.raises(Conflict) as caught:
        Retriever(retriever.generation, other)
    assert "all-minilm-l6-v2" in caught.value.why
    assert "other-model" in caught.value.why


def test_the_words_bm25_sees(retriever: Retriever) -> None:
    found = retriever.search("the cats are sleeping", 1, explain=True)
    assert found.tokens == ("cat", "sleep")
