from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound
from recipes.rag.folder import Collection, Folder, is_collection
from recipes.rag.readers import Unreadable


def names(folder: Folder) -> list[str]:
    return [e.path for e in folder.scan()]


def test_hidden_files_and_machine_folders_are_left_out(library: Path) -> None:
    (library / ".secret.md").write_text("x")
    (library / "node_modules").mkdir()
    (library / "node_modules" / "a.md").write_text("x")
    assert names(Folder(library)) == ["animals/cats.md", "animals/penguins.md", "bread.txt"]


def test_globs(library: Path) -> None:
    assert names(Folder(library, include=["*.txt"])) == ["bread.txt"]
    assert names(Folder(library, exclude=["animals/*"])) == ["bread.txt"]


def test_links_are_told_and_loops_end(library: Path) -> None:
    (library / "loop").symlink_to(library)
    plain = Folder(library)
    assert len(names(plain)) == 3
    assert plain.trouble == {"loop": "a symbolic link, not followed"}
    following = Folder(library, follow_links=True)
    assert len(names(following)) == 3
    assert "above" in following.trouble["loop"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_folder_is_told(library: Path) -> None:
    (library / "animals").chmod(0)
    try:
        folder = Folder(library)
        assert names(folder) == ["bread.txt"]
        assert "can't be listed" in folder.trouble["animals"]
    finally:
        (library / "animals").chmod(0o700)


def test_a_file_that_goes_away_is_unreadable(library: Path) -> None:
    folder = Folder(library)
    entry = folder.scan()[-1]
    (library / entry.path).unlink()
    with pytest.raises(Unreadable):
        folder.load(entry)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Folder(tmp_path / "nope").scan()


def test_a_collection_names_its_broken_line(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text("")
    (tmp_path / "docs.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": "2"}\n')
    assert is_collection(tmp_path)
    with pytest.raises(BadInput, match=r"docs\.jsonl:2"):
        Collection(tmp_path).scan()
    (tmp_path / "docs.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}\n')
    with pytest.raises(BadInput, match="no id of its own"):
        Collection(tmp_path).scan()
