"""Killed imports and removals, a full disk, and two at once: what is left is whole and usable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.api import Workbench
from engine.data import writing
from engine.data.removal import clear_removed, remove
from engine.data.versions import dataset_names, import_rows, open_dataset
from engine.errors import Conflict, NotFound, OutOfSpace
from engine.paths import StatePaths
from tests.faults.harness import PATIENCE

#: Where an import is killed: the module and the name that is replaced by a kill.
POINTS = {
    "before the table": ("deltalake.DeltaTable", "create"),
    "between table and rows": ("deltalake", "write_deltalake"),
    "before it is measured": ("engine.data.versions", "measure"),
    "before it is recorded": ("engine.data.versions.Dataset", "write_meta"),
}
KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from engine.data.versions import import_rows
from engine.paths import StatePaths
owner, name, source, state, mode = sys.argv[1:6]
try:
    owner = importlib.import_module(owner)
except ImportError:
    module, _, kind = owner.rpartition(".")
    owner = getattr(importlib.import_module(module), kind)
setattr(owner, name, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
import_rows(Path(source), "tickets", StatePaths(Path(state)), mode=mode)
"""


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


def rows_file(tmp_path: Path, *ids: int) -> Path:
    file = tmp_path / f"rows{'-'.join(map(str, ids))}.jsonl"
    file.write_text("".join(json.dumps({"id": i}) + "\n" for i in ids))
    return file


def killed_import(point: str, source: Path, paths: StatePaths, mode: str) -> None:
    command = [sys.executable, "-c", KILLED, *POINTS[point], str(source), str(paths.root), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_first_import_hides_nothing_and_can_be_done_again(
    tmp_path: Path, paths: StatePaths, point: str
) -> None:
    import_rows(rows_file(tmp_path, 9), "other", paths)
    source = rows_file(tmp_path, 1, 2)
    killed_import(point, source, paths, "overwrite")
    bench = Workbench(paths.root)
    assert "other" in {view.name for view in bench.data.list()}
    version, _ = import_rows(source, "tickets", paths)
    assert version.rows == 2
    assert [row["id"] for row in bench.data.rows("tickets").rows] == [1, 2]


@pytest.mark.parametrize("point", ["before it is measured", "before it is recorded"])
def test_a_killed_append_counts_whole_and_once(
    tmp_path: Path, paths: StatePaths, point: str
) -> None:
    import_rows(rows_file(tmp_path, 1), "tickets", paths)
    killed_import(point, rows_file(tmp_path, 2, 3), paths, "append")
    view = Workbench(paths.root).data.show("tickets")
    assert (view.latest, view.rows) == (2, 3), "committed: its count comes from the log"


def test_a_bare_log_is_no_dataset_and_no_obstacle(tmp_path: Path, paths: StatePaths) -> None:
    (paths.datasets / "tickets" / "table" / "_delta_log").mkdir(parents=True)
    assert dataset_names(paths) == ()
    with pytest.raises(NotFound):
        open_dataset("tickets", paths)
    assert import_rows(rows_file(tmp_path, 1), "tickets", paths)[0].rows == 1


def test_who_comes_second_leaves_the_first_alone(
    tmp_path: Path, paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    write = writing.write_rows

    def slow(*given: object) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.data.versions.write_rows", slow)
    source = rows_file(tmp_path, 1, 2)
    first = threading.Thread(target=import_rows, args=(source, "tickets", paths))
    first.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(Conflict) as refused:
        import_rows(source, "tickets", paths)
    assert refused.value.hint
    go_on.set()
    first.join()
    assert open_dataset("tickets", paths).versions()[0].rows == 2


def test_what_a_killed_removal_left_is_cleared_by_the_next_work(
    tmp_path: Path, paths: StatePaths
) -> None:
    source = rows_file(tmp_path, 1)
    bench = Workbench(paths.root)

    def leave(lock: bool) -> Path:
        import_rows(source, "gone", paths)
        left = paths.datasets / f".gone.{lock}.removed"
        (paths.datasets / "gone").rename(left)
        if not lock:
            (left / "lock").unlink()
        return left

    for work in (
        lambda: bench.data.import_file(source, "kept", publish=False),
        lambda: bench.data.vacuum("kept", dry_run=False),
        lambda: bench.data.remove("kept"),
    ):
        left = [leave(lock=True), leave(lock=False)]
        work()
        assert not any(folder.exists() for folder in left)
    assert list(paths.datasets.iterdir()) == []


def test_a_removal_that_runs_is_left_alone(tmp_path: Path, paths: StatePaths) -> None:
    import_rows(rows_file(tmp_path, 1), "tickets", paths)
    running = paths.datasets / ".tickets.0.removed"
    with open_dataset("tickets", paths).writing():
        (paths.datasets / "tickets").rename(running)
        assert clear_removed(paths.datasets) == 0
        assert (running / "table").is_dir()
    assert clear_removed(paths.datasets) == 1
    assert not running.exists()


def test_a_removal_killed_half_way_is_gone_for_everyone(tmp_path: Path, paths: StatePaths) -> None:
    import_rows(rows_file(tmp_path, 1), "tickets", paths)
    code = (
        "import os, signal, sys; from pathlib import Path; import engine.data.removal as r;"
        "from engine.paths import StatePaths;"
        "r._delete = lambda *a: os.kill(os.getpid(), signal.SIGKILL);"
        "r.remove('tickets', StatePaths(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(paths.root)], timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    assert dataset_names(paths) == ()
    assert len(list(paths.datasets.iterdir())) == 1
    import_rows(rows_file(tmp_path, 2), "tickets", paths)
    remove("tickets", paths)
    assert list(paths.datasets.iterdir()) == []


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


def test_a_full_disk_leaves_every_version_as_it_was(tmp_path: Path, small: Path) -> None:
    paths = StatePaths(small / "state").ensure()
    import_rows(rows_file(tmp_path, 1), "tickets", paths)
    large = tmp_path / "large.jsonl"
    with large.open("w") as file:
        for number in range(3_000):
            file.write(json.dumps({"id": number, "text": os.urandom(4_000).hex()}) + "\n")
    for name in ("tickets", "new"):
        with pytest.raises(OutOfSpace):
            import_rows(large, name, paths, mode="append")
    assert dataset_names(paths) == ("tickets",)
    (version,) = open_dataset("tickets", paths).versions()
    assert version.rows == 1
    assert import_rows(rows_file(tmp_path, 2), "tickets", paths, mode="append")[0].rows == 2
