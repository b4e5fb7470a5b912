from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


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
