"""Answers through a deployment: the real llama.cpp server, a tiny real model, a real index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import BadInput, Conflict
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.serving import records
from engine.types.serving import DeploymentState
from modelops_tui import Workstation
from recipes.rag.citations import read_citations
from recipes.rag.deployed import DeployedModel, FolderText, deployment
from recipes.rag.model import GgufText, LocalModel
from recipes.rag.pipeline import Job, sync_index


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workstation]:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    with Workstation(tmp_path / "state") as made:
        yield made
        for view in made.serving.list():
            try:
                made.serving.stop(view.name, wait_s=120)
            except Conflict:
                continue
        made.system.stop_engine()


def put_to_sleep(station: Workstation, name: str) -> None:
    """Sleep once the last answer is off its hands: its reader may be ready a moment sooner."""
    deadline = time.monotonic() + 60
    while True:
        try:
            station.serving.sleep(name)
            return
        except Conflict:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.slow
def test_a_deployment_answers_asleep_too_and_says_when_it_is_stopped(
    station: Workstation, paths: StatePaths, library: Path, tiny_gguf: Path
) -> None:
    sync_index(Job("library", library), paths)
    station.serve(str(tiny_gguf), name="tiny", threads=1, context=512, memory="400 MiB")

    events = list(station.rag.ask("library", "What do penguins eat?", model="tiny", budget=120))
    answer = events[-1]["result"]
    assert answer.model.startswith("tiny ("), answer.model
    assert sum(e.get("type") == "token" for e in events) > 3, "it streams"
    assert answer.prompt.startswith("<|im_start|>system\n")
    assert answer.prompt_tokens < 512
    # what a random model writes is marked, and the sources speak for themselves
    assert answer.citations
    assert {c.source for c in answer.citations} <= {s.number for s in answer.sources}, "the grammar"
    assert "krill" in answer.text

    # greedy, under the same grammar, over the same prompt: the model in this process says the same
    local = list(
        station.rag.ask("library", "What do penguins eat?", model=str(tiny_gguf), budget=120)
    )
    assert local[-1]["result"].prompt == answer.prompt
    written = ["".join(str(e.get("text", "")) for e in run) for run in (events, local)]
    assert written[0][:12] == written[1][:12]

    # a backend that knows no grammar is asked over the chat endpoint
    view = replace(station.serving.get("tiny"), backend="other")
    other = DeployedModel(view, station.serving.key("tiny"), station.paths)
    assert not other.constrained
    hello = [{"role": "user", "content": "Hello"}]
    free = "".join(other.stream(hello, grammar='root ::= "yes"', max_tokens=8))
    assert free
    assert free != "yes"

    put_to_sleep(station, "tiny")
    awoken = list(station.rag.ask("library", "What do penguins eat?", model="tiny", budget=120))
    assert awoken[-1]["result"].found
    found = station.rag.inspect("library", query="What do penguins eat?", model="tiny", budget=120)
    assert found["prompt"] == answer.prompt

    station.serving.stop("tiny", wait_s=120)
    with pytest.raises(Conflict, match="'tiny' is stopped") as refused:
        list(station.rag.ask("library", "What do penguins eat?", model="tiny"))
    assert refused.value.hint == "modelops-tui serve restart tiny"


def test_a_deployment_on_record_that_never_ran(paths: StatePaths) -> None:
    record = records.Record("idle", "x.gguf", "llama.cpp", "", "127.0.0.1", 8100, 0.0, "")
    records.save(paths, record)
    with pytest.raises(Conflict, match=str(DeploymentState.STOPPED)):
        deployment("idle", paths)
    assert deployment("unknown", paths) is None
    assert deployment("some/folder@prod", paths) is None


def test_a_deployment_of_vectors_is_refused(paths: StatePaths) -> None:
    record = records.Record(
        "vectors", "x.gguf", "llama.cpp", "", "127.0.0.1", 8100, 0.0, "", task="embed"
    )
    records.save(paths, record)
    with pytest.raises(BadInput, match="makes vectors"):
        deployment("vectors", paths)


def test_both_tokenizers_of_a_model_count_and_write_alike(
    tiny_model: Path, tiny_gguf: Path
) -> None:
    folder, file = FolderText(tiny_model), GgufText(tiny_gguf, "tiny")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, you"}]
    prompt = file.render(talk)
    assert folder.render(talk) == prompt
    for special in (False, True):
        assert folder.count(prompt, special=special) == file.count(prompt, special=special)
    assert file.count(prompt, special=True) < file.count(prompt)
    assert folder.trained_context() == file.trained_context() == 512


def test_a_hugging_face_folder_answers_here_too(tiny_model: Path, paths: StatePaths) -> None:
    model = LocalModel.of(resolve_model(str(tiny_model), paths), paths, threads=1)
    pieces = list(
        model.stream([{"role": "user", "content": "Hi"}], grammar='root ::= "yes"', max_tokens=8)
    )
    assert "".join(pieces) == "yes"
    assert model.context == 512


def test_a_model_that_writes_nothing_is_refused(paths: StatePaths) -> None:
    with pytest.raises(BadInput, match="can't answer") as refused:
        LocalModel.of(resolve_model("all-minilm-l6-v2", paths), paths)
    assert "writes no text" in refused.value.why


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Cats purr. [1] They sleep [2].", [("Cats purr.", 1), ("They sleep", 2)]),
        ("Cats purr. They sleep a lot [2].", [("Cats purr.", 0), ("They sleep a lot", 2)]),
        ("They sleep [1, 2]. They eat [2][1].", [("They sleep", 1), ("They eat", 2)]),
        ("They sleep [7]. They eat [Source 2].", [("They sleep", 0), ("They eat", 2)]),
        ("They sleep [1]. And then they", [("They sleep", 1)]),
        ("They only sleep", [("They only sleep", 0)]),
        ("It takes 3 [min] to bake [1].", [("It takes 3 [min] to bake", 1)]),
        ("[1] [2].", []),
        ("", []),
    ],
)
def test_citations_of_a_model_without_a_grammar(text: str, found: list[tuple[str, int]]) -> None:
    assert read_citations(text, [1, 2]) == found
