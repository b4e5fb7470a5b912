"""The daemon's small parts: settings, config, doorbell, protocol, systemd unit, sweeping, space."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.daemon import doorbell, progress, protocol, space, sweeping, systemd
from engine.daemon.settings import EngineSettings, worker_threads
from engine.daemon.steps import artifacts_exist, step_key
from engine.errors import BadInput, OutOfSpace, Refused
from engine.paths import StatePaths
from engine.settings import EngineTable
from engine.store.schema import open_store
from engine.store.submit import add_job
from tests.support.plans import plan


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state").ensure()


def test_settings_are_checked(paths: StatePaths) -> None:
    assert EngineSettings.load(paths) == EngineSettings()
    paths.config.write_text("[engine]\ngrace_s = 5\nhub = true\n")
    settings = EngineSettings.load(paths)
    assert (settings.grace_s, settings.hub) == (5.0, True)
    for line in ("grace_s = 'soon'", "grace_s = -1", "hub = 1"):
        paths.config.write_text(f"[engine]\n{line}\n")
        with pytest.raises(BadInput, match="is not valid"):
            EngineSettings.load(paths)
    paths.config.write_text("[engine\n")
    with pytest.raises(BadInput, match="can't be read"):
        EngineSettings.load(paths)


def test_the_defaults_are_those_that_the_settings_show() -> None:
    """The engine reads its table without pydantic; ``engine.settings`` describes the same one."""
    assert asdict(EngineSettings()) == EngineTable().model_dump()


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_threads(0) == cores
    assert worker_threads(1) == 1
    assert worker_threads(4096) == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert worker_threads(0) == 1


def test_the_doorbell_rings_in_a_deep_folder_and_never_blocks(tmp_path: Path) -> None:
    deep = tmp_path / ("deep-" + "x" * 120)
    paths = StatePaths(deep).ensure()
    assert not doorbell.ring(paths)
    bell = doorbell.open_doorbell(paths)
    try:
        assert paths.doorbell.stat().st_mode & 0o777 == 0o600
        for _ in range(2000):
            # more than the socket's buffer holds: what does not fit is dropped
            doorbell.ring(paths)
        assert bell.recv(16) == b"!"
        doorbell.drain(bell)
        with pytest.raises(BlockingIOError):
            bell.recv(16)
    finally:
        bell.close()
    assert not doorbell.ring(paths)


def test_protocol_lines() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert protocol.peer_uid(left) == os.getuid()
        protocol.send_line(left, {"op": "hello"})
        protocol.send_line(left, {"op": "status"})
        buffer = bytearray()
        assert protocol.receive_line(right, buffer) == {"op": "hello"}
        assert protocol.receive_line(right, buffer) == {"op": "status"}
        left.sendall(b"[1]\n")
        with pytest.raises(ValueError, match="not an object"):
            protocol.receive_line(right, buffer)
        left.shutdown(socket.SHUT_WR)
        assert protocol.receive_line(right, bytearray()) is None
    assert protocol.version_key("0.10.2") > protocol.version_key("0.9.9")


def test_the_unit_file(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_HOME", str(paths.root))
    text = systemd.unit_text(paths)
    assert f'Environment="MODELOPS_HOME={paths.root}"' in text
    assert "KillMode=process" in text
    assert f'ExecStart="{sys.executable}" -P -m engine.daemon' in text
    unit = paths.root / systemd.UNIT
    unit.write_text(text)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
        )
        # it loads the units of this machine along with ours, and may find fault with those
        assert [line for line in done.stderr.splitlines() if systemd.UNIT in line] == []


def test_installing_the_unit(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user bus can be had in a test: a script stands for systemctl and keeps what it is told."""
    tools, told = paths.root / "bin", paths.root / "told"
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    (tools / "systemctl").chmod(0o755)
    runtime = paths.root / "run"
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(paths.root / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("MODELOPS_HOME", str(paths.root))
    with pytest.raises(Refused, match="can't be installed") as caught:
        systemd.install(paths)
    assert "engine start" in caught.value.hint
    assert not systemd.start_installed(paths)
    runtime.mkdir()
    (runtime / "bus").touch()
    with pytest.raises(Refused, match="default state directory"):
        systemd.install(StatePaths(paths.root / "other").ensure())
    assert systemd.install(paths) == systemd.unit_path()
    assert systemd.fitness().installed
    assert systemd.start_installed(paths)
    assert told.read_text().splitlines() == [
        "--user daemon-reload",
        f"--user enable --now {systemd.UNIT}",
        f"--user start {systemd.UNIT}",
    ]
    (tools / "systemctl").write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    assert not systemd.start_installed(paths), "then the engine is detached as before"


def test_run_folders_without_a_job_are_swept(paths: StatePaths) -> None:
    conn = open_store(paths.jobs_db)
    kept = add_job(conn, paths, plan())
    (paths.runs / "000009-dead" / "attempts").mkdir(parents=True)
    (paths.runs / ".new-abandoned").mkdir()
    living = paths.runs / ".new-living"
    living.mkdir()
    held = os.open(living, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert set(sweeping.sweep_run_folders(conn, paths)) == {"000009-dead", ".new-abandoned"}
    assert {p.name for p in paths.runs.iterdir()} == {kept, ".new-living"}
    os.close(held)
    conn.close()


def test_a_submit_that_a_sweep_overtakes_makes_another_folder(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep comes after the folder is made and before it is locked."""
    conn = open_store(paths.jobs_db)
    paths.runs.mkdir()
    real, swept = fcntl.flock, []

    def overtaken(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(sweeping.sweep_run_folders(conn, paths))
        real(fd, operation)

    monkeypatch.setattr(sweeping.fcntl, "flock", overtaken)
    folder, held = sweeping.make_staged(paths.runs)
    assert len(swept) == 1
    assert folder.is_dir()
    assert folder.name not in swept
    assert sweeping.sweep_run_folders(conn, paths) == []
    os.close(held)
    conn.close()


def test_space(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    space.require_space(paths)
    space.keep_ballast(paths)
    assert paths.ballast.stat().st_blocks * 512 >= space.BALLAST_BYTES
    assert space.drop_ballast(paths)
    assert not space.drop_ballast(paths)
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", str(10**9))
    with pytest.raises(OutOfSpace, match="not enough space") as caught:
        space.require_space(paths)
    assert "must stay free" in caught.value.why
    space.keep_ballast(paths)
    assert not paths.ballast.exists()
    assert space.file_system_of(Path("/proc")) == "proc"


def test_progress_is_read_from_the_end_of_a_long_gap(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert progress.read_new(file, 0) == ([], 0)
    line = '{"t": 1, "type": "progress", "done": %d, "total": 90000, "unit": "steps"}\n'
    file.write_text("".join(line % n for n in range(20_000)) + '{"t": 2, "ty')
    events, offset = progress.read_new(file, 0)
    assert events[-1]["done"] == 19_999
    assert len(events) < 20_000
    assert file.stat().st_size - offset == len('{"t": 2, "ty')
    with open(file, "a") as out:
        out.write('pe": "metrics", "loss": 0.5, "tokens_per_s": 9.0}\n{"broken\n')
    events, offset = progress.read_new(file, offset)
    assert progress.columns(events) == {"last_loss": 0.5, "last_rate": 9.0, "last_event_at": 2}
    assert offset == file.stat().st_size


def test_the_key_of_a_step() -> None:
    step = {"data": {"train": "tickets@v3"}, "lr": 1.0, "resources": {"threads": 1}}
    versions = {"code_versions": {"finetune": "a"}, "data_versions": {"tickets@v3": "1"}}
    key = step_key("finetune", step, versions)
    assert key == step_key("finetune", {**step, "resources": {"threads": 8}}, versions)
    assert key != step_key("finetune", {**step, "lr": 2.0}, versions)
    assert key != step_key("evaluate", step, versions)
    changed = {**versions, "data_versions": {"tickets@v3": "2"}}
    assert key != step_key("finetune", step, changed)
    other = {**versions, "data_versions": {"tickets@v3": "1", "unused@v1": "7"}}
    assert key == step_key("finetune", step, other)
    assert key != step_key("finetune", step, {**versions, "code_versions": {"finetune": "b"}})


def test_remembered_artifacts_are_looked_for_where_the_registry_keeps_them(
    paths: StatePaths,
) -> None:
    from engine.registry.layout import Layout

    digest = "ab" * 32
    outputs = {"model": f"sha256:{digest}", "loss": 1.0, "name": "x"}
    assert not artifacts_exist(paths, outputs)
    manifest = Layout.of(paths).manifest(digest)
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    assert artifacts_exist(paths, outputs)


def test_a_second_engine_is_refused_before_anything_heavy(paths: StatePaths) -> None:
    fd = os.open(paths.engine_lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    code = (
        "import sys, runpy; sys.argv = ['engine']\n"
        "try:\n    runpy.run_module('engine.daemon', run_name='__main__')\n"
        "except SystemExit as leave:\n    heavy = [m in sys.modules for m in ('sqlite3', 'huey')]\n"
        "    print(leave.code, *heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MODELOPS_HOME": str(paths.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["75", "False", "False"]
    assert "another engine runs" in done.stderr
    os.close(fd)
