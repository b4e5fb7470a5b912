"""The doctor's findings on healthy and on sick state directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api.system import System
from engine.daemon import space
from engine.paths import StatePaths
from engine.store.schema import open_store
from engine.types.system import Check


def findings(paths: StatePaths) -> dict[str, Check]:
    return {check.name: check for check in System(paths).doctor()}


def test_a_healthy_machine(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state").ensure()
    open_store(paths.jobs_db).close()
    found = findings(paths)
    assert {"python", "state directory", "disk", "job store", "engine", "service"} <= set(found)
    assert found["state directory"].status == "ok"
    assert "0 jobs" in found["job store"].detail
    assert found["engine"].detail.startswith("not running")
    # it explains which way of starting applies
    assert found["service"].detail


def test_a_new_machine_is_not_touched(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state")
    assert findings(paths)["state directory"].status == "ok"
    assert not paths.root.exists()


def test_an_open_directory_and_a_damaged_store(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state").ensure()
    paths.root.chmod(0o755)
    paths.jobs_db.write_bytes(b"garbage" * 2000)
    found = findings(paths)
    assert found["state directory"].status == "warning"
    assert "chmod 700" in found["state directory"].hint
    problems = [check for check in found.values() if check.status == "problem"]
    assert any("damaged" in check.detail for check in problems)


def test_network_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "file_system_of", lambda _: "nfs4")
    paths = StatePaths(tmp_path / "state").ensure()
    found = [check for check in System(paths).doctor() if "nfs4" in check.detail]
    assert found
    assert found[0].status == "problem"
    assert "MODELOPS_HOME" in found[0].hint


def test_too_little_space_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", str(10**9))
    assert findings(StatePaths(tmp_path))["disk"].status == "problem"


def test_disk_use_by_part(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path).ensure()
    (paths.registry / "blobs").mkdir(parents=True)
    (paths.registry / "blobs" / "a").write_bytes(b"x" * 300_000)
    (paths.registry / "blobs" / "b").hardlink_to(paths.registry / "blobs" / "a")
    use = System(paths).disk()
    assert use[0].name == "registry"
    assert 300_000 <= use[0].bytes < 400_000
