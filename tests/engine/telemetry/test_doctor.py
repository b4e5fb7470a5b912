"""The doctor's findings on healthy and on sick state directories."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from engine.api.system import System
from engine.daemon import space, systemd
from engine.devices import probe
from engine.paths import StatePaths
from engine.store.schema import open_store
from engine.types.system import Check


def findings(paths: StatePaths) -> dict[str, Check]:
    return {check.name: check for check in System(paths).doctor()}


def test_what_uv_is_for_is_not_overstated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    detail = findings(StatePaths(tmp_path / "state"))["optional parts"].detail
    assert "uv, for quicker isolated backends (without it pip makes them)" in detail


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


def test_a_state_directory_that_can_never_be(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for root in (Path("/dev/null/x"), Path("/proc/x/y"), link, tmp_path / "file", link / "deeper"):
        check = findings(StatePaths(root))["state directory"]
        assert check.status == "problem", root
        assert str(root) in check.detail
        assert "--state" in check.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"], "nothing is left"


def test_which_way_of_starting_applies_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the files that tell of a bus and of linger; a real manager: ``tests/faults``."""
    tools, runtime, linger = tmp_path / "bin", tmp_path / "run", tmp_path / "linger"
    for folder in (tools, runtime, linger):
        folder.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(systemd, "LINGER", linger)
    paths = StatePaths(tmp_path / "state")

    def service() -> tuple[str, str, str]:
        check = findings(paths)["service"]
        return check.status, check.detail, check.hint

    detached = "the engine is started detached from the terminal"
    assert service() == ("ok", f"{detached} (systemctl is not installed)", "")
    (tools / "systemctl").write_text("#!/bin/sh\n")
    (tools / "systemctl").chmod(0o755)
    assert service() == ("ok", f"{detached} (there is no user bus in {runtime})", "")
    (runtime / "bus").touch()
    status, detail, hint = service()
    assert (status, "linger is off" in detail, "enable-linger" in hint) == ("ok", True, True)
    systemd.unit_path().parent.mkdir(parents=True)
    systemd.unit_path().touch()
    status, detail, hint = service()
    assert (status, "linger is off" in detail, "enable-linger" in hint) == ("warning", True, True)
    (linger / getpass.getuser()).touch()
    assert service() == ("ok", f"installed as {systemd.unit_path()}", "")
    systemd.unit_path().unlink()
    status, detail, hint = service()
    assert (status, "possible here" in detail, "engine install" in hint) == ("ok", True, True)


def test_what_is_said_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StatePaths(tmp_path / "state")
    monkeypatch.setattr(probe, "_nvml", None)
    monkeypatch.setattr(probe, "_nvml_failed", "")
    monkeypatch.setattr("pynvml.nvmlInit", no_driver)
    check = findings(paths)["gpu"]
    assert (check.status, check.detail) == (
        "ok",
        "none answers (NVML: Driver Not Loaded): jobs run on the CPU",
    )
    cards = tmp_path / "gpus.json"
    cards.write_text('[{"uuid": "GPU-1", "total": 8, "free": 5}]')
    monkeypatch.setenv(probe.ENV_FAKE, str(cards))
    check = findings(paths)["gpu"]
    assert check.status == "warning"
    assert "none of them real" in check.detail


def no_driver() -> None:
    import pynvml

    raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


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
