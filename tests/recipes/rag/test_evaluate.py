from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound
from engine.paths import StatePaths
from recipes.rag.actions import evaluate as measured
from recipes.rag.evaluate import (
    bootstrap,
    compare,
    evaluate,
    ndcg,
    read_queries,
    recall,
    reciprocal_rank,
)
from recipes.rag.pipeline import Job, open_retriever, sync_index
from recipes.rag.retrieve import Settings


def test_metrics_by_hand() -> None:
    ranking, grades = ["a", "b", "c", "d"], {"b": 3, "d": 1, "x": 2, "c": 0}
    dcg = 3 / math.log2(3) + 1 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, grades) == pytest.approx(dcg / ideal)
    assert recall(ranking, grades, 2) == pytest.approx(1 / 3)
    assert recall(ranking, grades, 10) == pytest.approx(2 / 3)
    assert reciprocal_rank(ranking, grades) == 0.5
    assert reciprocal_rank(["z"], grades) == 0.0
    assert ndcg([], grades) == 0.0


def test_the_interval_holds_the_mean_and_shrinks() -> None:
    few, many = bootstrap([0.0, 1.0] * 5), bootstrap([0.0, 1.0] * 500)
    assert few[1] < few[0] == 0.5 < few[2]
    assert many[2] - many[1] < (few[2] - few[1]) / 3


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """In the original BEIR layout."""
    root = tmp_path / "beir"
    (root / "qrels").mkdir(parents=True)
    docs = {"d1": "Penguins eat krill.", "d2": "Cats purr softly.", "d3": "Bread needs yeast."}
    rows = [json.dumps({"_id": i, "title": "", "text": t}) for i, t in docs.items()]
    (root / "corpus.jsonl").write_text("\n".join(rows))
    queries = {"q1": "what do penguins eat", "q2": "which animal purrs", "q3": "unjudged"}
    rows = [json.dumps({"_id": i, "text": t}) for i, t in queries.items()]
    (root / "queries.jsonl").write_text("\n".join(rows))
    qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td3\t0\n"
    (root / "qrels" / "test.tsv").write_text(qrels)
    return root


def test_a_beir_folder_is_read_and_measured_as_it_is(collection: Path, paths: StatePaths) -> None:
    sync_index(Job("beir", collection), paths)
    retriever, queries = open_retriever("beir", paths), read_queries(collection)
    hybrid = evaluate(retriever, queries)
    assert hybrid.queries == 2, "queries without a relevant document are left out"
    assert hybrid.metrics["ndcg@10"] == (1.0, 1.0, 1.0)
    assert {r["query"] for r in hybrid.per_query} == {"q1", "q2"}
    other = evaluate(retriever, queries, Settings(mode="bm25"), name="bm25")
    pair = compare(hybrid, other)
    assert pair["better"] + pair["worse"] + pair["equal"] == 2


def test_generated_questions_are_never_mixed_with_real_ones(
    collection: Path, paths: StatePaths
) -> None:
    with (collection / "queries.jsonl").open("a") as file:
        for number in (1, 2):
            made = {"_id": f"g{number}", "text": "what does bread need", "generated": True}
            file.write("\n" + json.dumps(made))
    with (collection / "qrels" / "test.tsv").open("a") as file:
        file.write("g1\td3\t1\ng2\td1\t1\n")
    params = {"queries": str(collection), "configurations": {"hybrid": {}, "b": {"mode": "bm25"}}}
    found = measured(params, lambda event: None, paths)
    runs = {(run["name"], run["questions"]): run for run in found["evaluations"]}
    assert list(runs) == [
        ("hybrid", "real"), ("b", "real"), ("hybrid", "generated"), ("b", "generated"),
    ]  # fmt: skip
    assert runs["hybrid", "real"]["metrics"]["ndcg@10"][0] == 1.0
    assert runs["hybrid", "generated"]["metrics"]["mrr@10"][0] < 1.0, "g2 is judged wrongly"
    assert {r["query"] for r in runs["hybrid", "real"]["per_query"]} == {"q1", "q2"}
    assert {r["query"] for r in runs["hybrid", "generated"]["per_query"]} == {"g1", "g2"}
    assert [pair["questions"] for pair in found["comparisons"]] == ["real", "generated"]

    retriever, mixed = open_retriever("eval-beir", paths), read_queries(collection)
    with pytest.raises(BadInput, match="not measured together"):
        evaluate(retriever, mixed)


def test_an_index_without_the_judged_documents_is_told(
    collection: Path, library: Path, paths: StatePaths
) -> None:
    sync_index(Job("library", library), paths)
    params = {"queries": str(collection), "index": "library"}
    (run,) = measured(params, lambda event: None, paths)["evaluations"]
    assert run["missing"] == 2
    (collection / "corpus.jsonl").unlink()
    with pytest.raises(BadInput, match="questions only"):
        measured({"queries": str(collection)}, lambda event: None, paths)


def test_broken_collections_are_told(collection: Path) -> None:
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tmuch\n")
    with pytest.raises(BadInput, match=r"test\.tsv:2"):
        read_queries(collection)
    (collection / "qrels" / "test.tsv").unlink()
    with pytest.raises(NotFound, match=r"qrels\.tsv"):
        read_queries(collection)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bar"), [("docsqa", 0.80), ("cranfield", 0.555)])
def test_quality_on_the_shared_collections(name: str, bar: float, paths: StatePaths) -> None:
    place = Path(os.environ.get("MODELOPS_IR_DATA", "../shared/data/ir")) / name
    if not place.is_dir():
        pytest.skip("the collections are not here: set MODELOPS_IR_DATA")
    sync_index(Job(name, place), paths)
    retriever, queries = open_retriever(name, paths), read_queries(place)
    means = {
        mode: evaluate(retriever, queries, Settings(mode=mode)).metrics["ndcg@10"][0]
        for mode in ("hybrid", "bm25", "rrf")
    }
    assert means["hybrid"] >= bar
    assert means["hybrid"] >= means["bm25"] + 0.03
    assert means["hybrid"] >= means["rrf"] - 0.005
