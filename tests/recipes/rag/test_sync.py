from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Conflict, IntegrityError
from engine.paths import StatePaths
from recipes.rag.embedding import Embedder
from recipes.rag.folder import Folder
from recipes.rag.retrieve import Retriever
from recipes.rag.store import Generation, Index, Meta, named_index
from recipes.rag.sync import Sync, SyncReport


def meta(embedder: Embedder, folder: Path, **changes: Any) -> Meta:
    settings: dict[str, Any] = {"chunk_tokens": 128, "chunk_overlap": 32, "language": "English"}
    settings.update(changes)
    return Meta(fingerprint=embedder.fingerprint, folder=str(folder), **settings)


def sync(index: Index, folder: Path, embedder: Embedder, **changes: Any) -> SyncReport:
    rebuild = changes.pop("rebuild", False)
    made_with = meta(embedder, folder, **changes)
    return Sync(index, Folder(folder), made_with, embedder).run(rebuild=rebuild)


@pytest.fixture
def index(paths: StatePaths) -> Index:
    return named_index("library", paths)


def current(index: Index) -> Generation:
    assert index.current is not None
    return index.current


def ids(index: Index) -> list[str]:
    table = current(index).table
    found: list[str] = table.search().select(["id"]).to_arrow()["id"].to_pylist()
    return found


def test_first_sync_then_nothing_to_do(index: Index, library: Path, embedder: Embedder) -> None:
    first = sync(index, library, embedder)
    assert (first.added, first.documents, first.unreadable) == (3, 3, {})
    version = current(index).table.version
    again = sync(index, library, embedder)
    assert (again.unchanged, again.embedded_chunks) == (3, 0)
    assert current(index).table.version == version, "an unchanged folder makes no commit"


def test_only_changed_chunks_are_embedded(index: Index, library: Path, embedder: Embedder) -> None:
    sync(index, library, embedder)
    file = library / "animals" / "penguins.md"
    file.write_text(file.read_text().replace("krill", "plankton"))
    report = sync(index, library, embedder)
    assert (report.changed, report.embedded_chunks, report.reused_chunks) == (1, 1, 1)
    texts = current(index).table.search().select(["search_text"]).to_arrow()
    joined = " ".join(texts["search_text"].to_pylist())
    assert "plankton" in joined
    assert "krill" not in joined


def test_a_text_that_stands_in_many_files_is_embedded_once(
    index: Index, tmp_path: Path, embedder: Embedder
) -> None:
    folder = tmp_path / "projects"
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "LICENSE.txt").write_text("Permission is granted to use this.\n")
    report = sync(index, folder, embedder)
    assert (report.documents, report.embedded_chunks, report.reused_chunks) == (3, 1, 2)
    assert len(Retriever(current(index), embedder).search("permission", 5).hits) == 3


def test_a_file_that_changes_while_it_is_read(
    index: Index, library: Path, embedder: Embedder
) -> None:
    """Whatever a sync caught of it, the next one has it whole, once, as it is."""
    diary, over = library / "diary.md", threading.Event()

    def write() -> None:
        n = 0
        while not over.is_set():
            n += 1
            # in place, so that a reader may find it empty, half written or grown
            with diary.open("w") as file:
                file.write(f"# Diary\n\nEntry {n}. ")
                file.flush()
                file.write("And so the day went on. " * (n % 40))

    diary.write_text("# Diary\n\nNothing yet.\n")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            sync(index, library, embedder)
    finally:
        over.set()
        writer.join()
    diary.write_text("# Diary\n\nThe last word is quince.\n")
    sync(index, library, embedder)
    rows = current(index).table.search().where("path = 'diary.md'").to_arrow()
    assert ["quince" in text for text in rows["search_text"].to_pylist()] == [True]
    assert len(ids(index)) == len(set(ids(index)))
    assert sync(index, library, embedder).unchanged == 4


def test_chunks_of_a_shortened_file_go(index: Index, library: Path, embedder: Embedder) -> None:
    before = sync(index, library, embedder)
    (library / "animals" / "cats.md").write_text("# Cats\n\nA cat sleeps sixteen hours a day.\n")
    after = sync(index, library, embedder)
    assert after.chunks == before.chunks - 1
    texts = current(index).table.search().select(["search_text"]).to_arrow()
    assert "purr" not in " ".join(texts["search_text"].to_pylist())


def test_touching_a_file_embeds_nothing(index: Index, library: Path, embedder: Embedder) -> None:
    sync(index, library, embedder)
    version = current(index).table.version
    os.utime(library / "bread.txt", (1, 1))
    report = sync(index, library, embedder)
    assert (report.unchanged, report.embedded_chunks) == (3, 0)
    assert current(index).table.version == version


def test_renames_keep_vectors_and_removals_leave(
    index: Index, library: Path, embedder: Embedder
) -> None:
    sync(index, library, embedder)
    (library / "animals" / "cats.md").rename(library / "felines.md")
    (library / "bread.txt").unlink()
    report = sync(index, library, embedder)
    assert (report.renamed, report.removed, report.embedded_chunks) == (1, 1, 0)
    found = set(current(index).table.search().select(["path"]).to_arrow()["path"].to_pylist())
    assert found == {"felines.md", "animals/penguins.md"}


def test_a_file_that_becomes_unreadable_leaves_the_index(
    index: Index, library: Path, embedder: Embedder
) -> None:
    sync(index, library, embedder)
    (library / "bread.txt").write_bytes(bytes(range(256)) * 8)
    report = sync(index, library, embedder)
    assert "binary" in report.unreadable["bread.txt"]
    assert report.documents == 2
    assert not any(
        "bread" in p for p in current(index).table.search().to_arrow()["path"].to_pylist()
    )
    (library / "bread.txt").write_text("Bread again, with more salt.")
    assert sync(index, library, embedder).documents == 3


def test_lost_state_is_rebuilt_from_the_table(
    index: Index, library: Path, embedder: Embedder
) -> None:
    """What a kill between the table's commit and ``files.json`` leaves behind."""
    sync(index, library, embedder)
    before = sorted(ids(index))
    (current(index).folder / "files.json").unlink()
    report = sync(index, library, embedder)
    assert (report.unchanged, report.embedded_chunks) == (3, 0)
    assert sorted(ids(index)) == before


def test_other_settings_build_beside_and_switch(
    index: Index, library: Path, embedder: Embedder
) -> None:
    sync(index, library, embedder)
    first = current(index)
    report = sync(index, library, embedder, chunk_tokens=32, chunk_overlap=8)
    assert report.rebuilt
    assert current(index).folder != first.folder
    assert not first.folder.exists()
    assert len(ids(index)) == len(set(ids(index))) == report.chunks


def test_a_damaged_index_is_told_and_rebuilt(
    index: Index, library: Path, embedder: Embedder
) -> None:
    sync(index, library, embedder)
    (current(index).folder / "meta.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        Retriever(current(index), embedder)
    report = sync(index, library, embedder)
    assert report.documents == 3
    assert "damaged" in report.warnings["index"]


def test_one_writer_at_a_time(index: Index, library: Path, embedder: Embedder) -> None:
    with index.writing(), pytest.raises(Conflict, match="another process"):
        sync(index, library, embedder)


def test_a_stop_is_resumed(index: Index, library: Path, embedder: Embedder) -> None:
    stopped = Sync(index, Folder(library), meta(embedder, library), embedder, stop=lambda: True)
    stopped.run()
    assert index.current is None, "an unfinished first sync does not answer"
    report = sync(index, library, embedder)
    assert report.unchanged == 1, "what was committed before the stop is kept"
    assert report.documents == 3
    assert len(ids(index)) == len(set(ids(index)))


def test_a_reader_sees_the_writer(index: Index, library: Path, embedder: Embedder) -> None:
    sync(index, library, embedder)
    reader = Retriever(current(index), embedder)
    assert reader.search("submarine engines", 1).hits[0].path != "boats.md"
    (library / "boats.md").write_text("# Boats\n\nSubmarine engines are quiet under water.\n")
    sync(index, library, embedder)
    assert reader.search("submarine engines", 1).hits[0].path == "boats.md"


KILLED = """
import sys, time
from pathlib import Path
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag import sync as syncing
from recipes.rag.pipeline import Job, sync_index
syncing.COMMIT_CHUNKS = 4
sync_index(Job("library", Path(sys.argv[2])), StatePaths(Path(sys.argv[1])),
           progress=lambda done, total, name: print(done, flush=True))
"""


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_small_files(index: Index, tmp_path: Path, embedder: Embedder) -> None:
    """All are indexed; what changed afterwards is found without embedding the rest again."""
    folder = tmp_path / "many"
    for part in range(100):
        (folder / f"{part:02d}").mkdir(parents=True)
        for i in range(1000):
            # a thousand texts: what is tried is the number of files, not the encoder
            text = f"Ticket about subject {i}.\n" if i else ""
            (folder / f"{part:02d}" / f"{i:03d}.txt").write_text(text)
    first = sync(index, folder, embedder)
    assert (first.added, first.documents, len(first.unreadable)) == (99_900, 99_900, 100)
    version = current(index).table.version
    again = sync(index, folder, embedder)
    assert (again.added, again.changed, again.documents, again.embedded_chunks) == (0, 0, 99_900, 0)
    assert current(index).table.version == version
    (folder / "50" / "500.txt").write_text("The lighthouse keeper reads novels.\n")
    (folder / "51" / "501.txt").unlink()
    third = sync(index, folder, embedder)
    assert (third.changed, third.removed, third.embedded_chunks) == (1, 1, 1)
    hits = Retriever(current(index), embedder).search("lighthouse", 3).hits
    assert hits[0].path == "50/500.txt"


@pytest.mark.nightly
@pytest.mark.parametrize("rebuild", [False, True])
def test_kill_at_any_point_keeps_the_old_index_and_duplicates_nothing(
    index: Index, paths: StatePaths, tmp_path: Path, embedder: Embedder, rebuild: bool
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.md").write_text(f"# Page {i}\n\nThis page is about the number {i}.\n")
    sync(index, folder, embedder, chunk_tokens=32 if rebuild else 128)
    for i in range(0, 40, 2):
        (folder / f"{i:02d}.md").write_text(f"# Page {i}\n\nNow about the letter {chr(65 + i)}.\n")
    (folder / "39.md").unlink()
    for after in (1, 7, 13, 19):
        command = [sys.executable, "-c", KILLED, str(paths.root), str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= after:
                break
        time.sleep(0.05 * after % 0.3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = Retriever(current(index), embedder).search("number 11", 3)
        assert any(hit.path == "11.md" for hit in found.hits), "the index answers after the kill"
    report = sync(index, folder, embedder)
    assert report.documents == 39
    assert len(ids(index)) == len(set(ids(index))) == 39
