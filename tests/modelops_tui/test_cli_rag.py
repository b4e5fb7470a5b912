from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE
from tests.modelops_tui.front_door import FrontDoor


@pytest.fixture
def run(tmp_path: Path):
    def call(*arguments: str, status: int = 0) -> str:
        env = {**os.environ, "MODELOPS_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "modelops_tui", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=240, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return call


def test_sync_list_search_and_inspect(run, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Penguins\n\nPenguins eat krill and squid.\n")
    (folder / "b.md").write_text("# Cats\n\nCats purr when they are content.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    report = json.loads(run("rag", "sync", "notes", "--json"))
    assert (report["documents"], list(report["unreadable"])) == (2, ["broken.pdf"])
    (view,) = json.loads(run("rag", "list", "--json"))
    assert (view["name"], view["documents"], view["unreadable"]) == ("notes", 2, 1)
    found = json.loads(run("rag", "search", "notes", "what do penguins eat", "-k", "1", "--json"))
    assert found["hits"][0]["path"] == "a.md"
    shown = run("rag", "inspect", "notes", "--file", "b.md")
    assert "words: cat cat purr content" in shown


def test_mistakes_have_their_exit_status(run, tmp_path: Path) -> None:
    assert "no index" in run("rag", "search", "nope", "x", status=3)
    assert "there is no data" in run("rag", "sync", str(tmp_path / "nope"), status=3)


def test_what_is_not_said_again_is_as_it_was(run, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Penguins\n\nPenguins eat krill and squid.\n")
    (folder / "b.txt").write_text("Cats purr when they are content.\n")
    first = json.loads(
        run("rag", "sync", "notes", "--include", "*.md", "--tag", "*.md=bird", "--json")
    )
    assert first["documents"] == 1
    again = json.loads(run("rag", "sync", "notes", "--json"))
    assert (again["documents"], again["unchanged"], again["rebuilt"]) == (1, 1, False)
    found = json.loads(run("rag", "search", "notes", "krill", "--tag", "bird", "--json"))
    assert [hit["path"] for hit in found["hits"]] == ["a.md"]
    assert "no GLOB=TAG" in run("rag", "sync", "notes", "--tag", "bird", status=2)
    named = tmp_path / "elsewhere"
    folder.rename(named)
    other = json.loads(run("rag", "sync", "elsewhere", "--name", "notes", "--json"))
    assert other["documents"] == 2, "another folder begins with the defaults"
    (named / "c.md").write_text("# Owls\n\nOwls hunt at night.\n")
    by_name = json.loads(run("rag", "sync", "notes", "--json"))
    assert (by_name["documents"], by_name["added"]) == (3, 1), "the index says where its folder is"


def test_an_index_is_removed(run, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Penguins\n\nPenguins eat krill and squid.\n")
    run("rag", "sync", "notes")
    assert json.loads(run("rag", "rm", "notes", "--json"))["freed_bytes"] > 1000
    assert json.loads(run("rag", "list", "--json")) == []
    assert not (tmp_path / "state" / "indexes" / "notes").exists()
    assert (folder / "a.md").exists()
    assert "there is no index" in run("rag", "rm", "notes", status=3)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "birds.md").write_text(
        "---\ntags: [bird]\n---\n# Penguins\n\nPenguins eat krill and squid.\n"
    )
    (folder / "cats.md").write_text("# Cats\n\nCats eat krill if they must.\n")
    return folder


@pytest.mark.slow
def test_ask_and_inspect_take_the_same_filters(
    run, zoo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from recipes.gguf.convert import convert

    model = tmp_path / "tiny.gguf"
    convert(tiny_model, model)
    run("rag", "sync", "zoo")
    question = "what do penguins eat"
    asked = ("--model", str(model), "--budget", "100", "--json")
    narrow = ("--tag", "bird", "--mode", "bm25")
    seen = json.loads(run("rag", "inspect", "zoo", "--query", question, *narrow, *asked))
    assert {c["path"] for c in seen["candidates"]} == {"birds.md"}
    assert seen["settings"]["mode"] == "bm25"
    assert "krill" in seen["prompt"]
    answer = json.loads(run("rag", "ask", "zoo", question, *narrow, *asked))
    assert {source["path"] for source in answer["sources"]} == {"birds.md"}
    assert answer["context_tokens"] <= answer["budget_tokens"] == 100
    nothing = json.loads(run("rag", "ask", "zoo", "who won the chess olympiad", *asked))
    assert not nothing["found"]
    assert nothing["reason"]


@pytest.mark.slow
def test_a_collection_is_measured(run, tmp_path: Path) -> None:
    root = tmp_path / "coll"
    root.mkdir()
    (root / "docs.jsonl").write_text(
        '{"id": "d1", "title": "", "text": "Penguins eat krill."}\n'
        '{"id": "d2", "title": "", "text": "Cats purr softly."}\n'
    )
    (root / "queries.jsonl").write_text('{"id": "q1", "text": "what do penguins eat"}\n')
    (root / "qrels.tsv").write_text("query\tdocument\tgrade\nq1\td1\t1\n")
    told = json.loads(
        run("rag", "eval", "coll", "--config", "hybrid", "--config", "bm25", "--json")
    )
    assert [r["name"] for r in told["evaluations"]] == ["hybrid", "bm25"]
    assert told["evaluations"][0]["metrics"]["ndcg@10"] == [1.0, 1.0, 1.0]
    assert told["comparisons"][0]["equal"] == 1
    shown = run("rag", "eval", "coll", "--per-query")
    assert "ndcg@10" in shown
    assert "what do penguins eat" in shown


@pytest.mark.slow
def test_watch_writes_a_json_line_a_sync_and_what_is_stale_is_told(
    zoo: Path, tmp_path: Path
) -> None:
    door = FrontDoor(tmp_path)
    watching = door.begin("rag", "sync", "zoo", "--watch", "--json")
    try:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert (first["documents"], first["added"]) == (2, 2)
        (zoo / "owls.md").write_text("# Owls\n\nOwls hunt at night.\n")
        # a sync that ran while the file was written may have taken it in already, or half of it
        documents = 2
        while documents < 3:
            documents = json.loads(watching.stdout.readline())["documents"]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE) == 0
    finally:
        watching.kill()
        watching.communicate()
    assert json.loads(door("rag", "list", "--json").stdout)[0]["documents"] == 3
    (zoo / "cats.md").write_text("# Cats\n\nCats never eat krill, whatever one says.\n")
    assert "1 changed" in door("rag", "list").stdout
    found = door("rag", "search", "zoo", "krill", "--mode", "bm25")
    assert "warning: zoo: files since the sync: 1 changed" in found.stderr
    assert "hint: modelops-tui rag sync zoo" in found.stderr


def test_an_index_is_signed_and_answers_as_an_artifact(run, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Penguins\n\nPenguins eat krill and squid.\n")
    run("rag", "sync", "notes")
    signed = json.loads(run("rag", "publish", "notes", "--json"))
    again = json.loads(run("rag", "publish", "notes", "--json"))
    assert signed == again, "of the same state it is the same artifact"
    assert json.loads(run("rag", "list", "--json"))[0]["manifest"] == signed["manifest"]
    run("models", "verify", "notes")
    found = json.loads(run("rag", "search", signed["manifest"], "krill", "--json"))
    assert [hit["path"] for hit in found["hits"]] == ["a.md"]
    assert "there is no index" in run("rag", "publish", "nope", status=3)
