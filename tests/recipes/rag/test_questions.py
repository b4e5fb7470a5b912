from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import BadInput, Conflict
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.evaluate import evaluate, read_queries
from recipes.rag.model import LocalModel
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.questions import generate
from recipes.rag.retrieve import Retriever
from recipes.rag.store import open_index
from recipes.rag.support import content_words

BREAD = (
    "# Bread\n\nBread dough needs flour, water, salt and yeast. The baker kneads it for ten"
    " minutes, lets it rise for two hours and bakes it at 230 degrees until the crust is brown.\n"
)


@pytest.fixture
def retriever(paths: StatePaths, tmp_path: Path, embedder: Embedder) -> Retriever:
    folder = tmp_path / "kitchen"
    folder.mkdir()
    (folder / "bread.md").write_text(BREAD)
    (folder / "short.md").write_text("# Nothing\n\nToo short.\n")
    sync_index(Job("kitchen", folder), paths)
    return Retriever(open_index("kitchen", paths), embedder)


def test_a_question_that_has_nothing_of_its_chunk_is_thrown_away(
    retriever: Retriever, tiny_gguf: Path, tmp_path: Path
) -> None:
    target = tmp_path / "questions"
    with pytest.raises(BadInput, match="made no question that fits its chunk") as refused:
        generate(retriever, LocalModel(tiny_gguf, "tiny", threads=1), target, count=1)
    assert refused.value.why == "1 were thrown away"
    assert not target.exists(), "nothing is left behind"


def test_real_questions_are_never_written_over(
    retriever: Retriever, tiny_gguf: Path, tmp_path: Path
) -> None:
    model = LocalModel(tiny_gguf, "tiny", threads=1)
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"id": "q1", "text": "what is it", "generated": True}) + "\n")
    with pytest.raises(Conflict, match="holds generated questions"):
        generate(retriever, model, tmp_path)
    file.write_text(file.read_text() + json.dumps({"id": "q2", "text": "real"}) + "\n")
    for force in (False, True):
        with pytest.raises(Conflict, match="holds real questions"):
            generate(retriever, model, tmp_path, force=force)


@pytest.mark.slow
def test_a_small_model_makes_questions_that_can_be_measured(
    retriever: Retriever, paths: StatePaths, tmp_path: Path
) -> None:
    model = LocalModel.of(resolve_model("smollm2-135m-instruct", paths), paths, threads=1)
    target = tmp_path / "questions"
    report = generate(retriever, model, target, count=1)
    assert (report["questions"], report["files"]) == (1, 1)
    queries = read_queries(target)
    assert queries.generated == {"g1"}
    assert queries.qrels == {"g1": {"bread.md": 1}}
    assert queries.texts["g1"].endswith("?")
    assert len(set(content_words(queries.texts["g1"])) & set(content_words(BREAD))) >= 2
    assert evaluate(retriever, queries).questions == "generated"
    assert generate(retriever, model, target, count=1, force=True)["questions"] == 1
