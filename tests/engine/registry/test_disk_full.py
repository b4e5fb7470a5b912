"""A disk that is full: the reason is told, nothing half-written stays, and with room all goes on.

Root mounts a small file system of its own; elsewhere the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.errors import OutOfSpace
from engine.paths import StatePaths
from tests.engine.registry.conftest import make_folder

Machine = Callable[[str], Artifacts]
MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def large(folder: Path, mib: int) -> Path:
    folder.mkdir()
    for n in range(mib):
        (folder / f"part-{n}").write_bytes(os.urandom(MIB))
    return folder


def ballast(place: Path, leave: int, name: str = "ballast") -> Path:
    """Fill a disk but for ``leave`` bytes."""
    path = place / name
    path.write_bytes(bytes(max(shutil.disk_usage(place).free - leave, 0)))
    return path


def sound(artifacts: Artifacts, names: list[str]) -> None:
    report = artifacts.fsck(deep=True)
    assert report.ok, report.faults
    assert sorted(view.name for view in artifacts.list()) == names
    assert not list(artifacts.registry.layout.staging.iterdir())


def test_add(small: Path, tmp_path: Path) -> None:
    artifacts = Artifacts(StatePaths(small / "state"))
    artifacts.add(make_folder(tmp_path / "one"), name="one", artifact_type="model")
    with pytest.raises(OutOfSpace, match="no space left"):
        artifacts.add(large(tmp_path / "two", 9), name="two", artifact_type="model")
    artifacts.gc(dry_run=False, grace_s=0)
    sound(artifacts, ["one"])
    shutil.rmtree(tmp_path / "two")
    artifacts.add(large(tmp_path / "two", 2), name="two", artifact_type="model")
    sound(artifacts, ["one", "two"])


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768, 65536])
def test_add_when_only_the_documents_do_not_fit(small: Path, tmp_path: Path, leave: int) -> None:
    """Wherever the disk ends (blob, manifest, event, index): it is published, or it is not."""
    artifacts = Artifacts(StatePaths(small / "state"))
    artifacts.add(make_folder(tmp_path / "one"), name="one", artifact_type="model")
    filled = ballast(small, leave)
    published = ["one"]
    with suppress(OutOfSpace):
        artifacts.add(make_folder(tmp_path / "two", "2"), name="two", artifact_type="model")
        published.append("two")
    filled.unlink()
    artifacts.registry.close()
    artifacts = Artifacts(StatePaths(small / "state"))
    artifacts.gc(dry_run=False, grace_s=0)
    there = sorted(view.name for view in artifacts.list())
    assert set(published) <= set(there) <= {"one", "two"}
    sound(artifacts, there)
    artifacts.add(make_folder(tmp_path / "three", "3"), name="three", artifact_type="model")
    sound(artifacts, sorted([*there, "three"]))


def test_pull(
    small: Path,
    tmp_path: Path,
    machine: Callable[[str], Artifacts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice = machine("alice")
    alice.add(make_folder(tmp_path / "one"), name="one", artifact_type="model")
    alice.remote_add("origin", str(tmp_path / "remote"))
    alice.push()
    bob = Artifacts(StatePaths(small / "bob"))
    bob.clone(str(tmp_path / "remote"))
    alice.add(large(tmp_path / "two", 6), name="two", artifact_type="model")
    alice.push()
    filled = ballast(small, 3 * MIB)
    with pytest.raises(OutOfSpace, match="does not fit"):
        bob.pull()
    sound(bob, ["one"])
    # the space was there when it was asked for, and somebody else took it
    usage = shutil.disk_usage(small)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100 * MIB))
    with pytest.raises(OutOfSpace, match="no space left"):
        bob.pull()
    monkeypatch.undo()
    sound(bob, ["one"])
    filled.unlink()
    bob.pull()
    sound(bob, ["one", "two"])


def test_push_to_a_full_disk(
    small: Path, tmp_path: Path, machine: Callable[[str], Artifacts]
) -> None:
    alice = machine("alice")
    alice.add(make_folder(tmp_path / "one"), name="one", artifact_type="model")
    alice.remote_add("origin", str(small / "remote"))
    alice.push()
    alice.add(large(tmp_path / "two", 6), name="two", artifact_type="model")
    filled = ballast(small, 3 * MIB)
    with pytest.raises(OutOfSpace, match="no space left"):
        alice.push()
    # how much the uploads that failed had left free is up to their threads
    rest = ballast(small, 0, "rest")
    clone = machine("early")
    clone.clone(str(small / "remote"))  # what was there is whole and consistent all the same
    sound(clone, ["one"])
    assert "read only" in clone.remotes()[0].note
    filled.unlink()
    rest.unlink()
    assert clone.remote_probe("origin").shared
    alice.push()
    clone.pull()
    sound(clone, ["one", "two"])
