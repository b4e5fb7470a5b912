from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import OutOfSpace
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.retrieve import Retriever
from recipes.rag.store import open_index


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_keeps_the_old_index(small: Path, library: Path, embedder: Embedder) -> None:
    paths = StatePaths(small / "state").ensure()
    sync_index(Job("library", library), paths)
    for i in range(12):
        (library / f"new{i}.md").write_text(f"# New {i}\n\nA page about the colour number {i}.\n")
    ballast = small / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    with pytest.raises(OutOfSpace) as caught:
        sync_index(Job("library", library), paths)
    assert "answers as before" in caught.value.hint
    hits = Retriever(open_index("library", paths), embedder).search("what do penguins eat", 3).hits
    assert hits[0].path == "animals/penguins.md"
    ballast.unlink()
    report = sync_index(Job("library", library), paths)
    assert report.documents == 15
    table = open_index("library", paths).table
    ids = table.search().select(["id"]).to_arrow()["id"].to_pylist()
    assert len(ids) == len(set(ids)) == report.chunks
