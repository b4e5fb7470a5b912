"""Devices without hardware: RAM under a cgroup limit, fake cards, sizes, measured use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.devices import probe
from engine.devices.needs import parse_bytes, plan_needs, signature
from engine.devices.usage import session_memory, session_pids
from engine.kinds import load_kinds
from engine.paths import StatePaths
from engine.supervise.identity import boot_id, start_ticks
from tests.faults.harness import PLUGIN
from tests.support.plans import Step, plan

GIB = 1 << 30


def test_ram_is_the_lower_of_machine_and_cgroup(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n")
    assert probe.ram(meminfo, tmp_path) == probe.Memory(8 * GIB, 4 * GIB)
    (tmp_path / "memory.max").write_text(f"{2 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    assert probe.ram(meminfo, tmp_path) == probe.Memory(2 * GIB, 3 * GIB // 2)
    (tmp_path / "memory.max").write_text("max\n")
    assert probe.ram(meminfo, tmp_path).total == 8 * GIB


def test_the_cpu_is_always_there() -> None:
    cpu = probe.devices()[-1]
    assert cpu.lane == "cpu"
    assert 0 < cpu.memory_free <= cpu.memory_total


def test_fake_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gpus.json"
    file.write_text(json.dumps([{"uuid": "GPU-1", "total": 8, "free": 5}]))
    monkeypatch.setenv(probe.ENV_FAKE, str(file))
    (card,) = probe.gpus()
    assert (card.lane, card.memory_total, card.memory_free) == ("gpu-GPU-1", 8, 5)


class Cards:
    """Two cards as NVML shows them, the first of which has fallen off the bus."""

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> Any:
            raise self.NVMLError(name)

        return refuse

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 0:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:
        return SimpleNamespace(total=80 * GIB, free=70 * GIB)

    def nvmlDeviceGetUUID(self, index: int) -> bytes:
        return f"GPU-{index}".encode()

    def nvmlDeviceGetName(self, _: int) -> str:
        return "a card"


def test_a_lost_card_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_nvml", Cards())
    (card,) = probe.gpus()
    assert (card.uuid, card.lane, card.index) == ("GPU-1", "gpu-GPU-1", 1)
    assert (card.memory_total, card.memory_free) == (80 * GIB, 70 * GIB)
    assert (card.utilization, card.temperature_c, card.power_w, card.holders) == (
        None,
        None,
        None,
        (),
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1 KiB", 1024),
        ("12 GiB", 12 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("800MB", 800_000_000),
        ("2g", 2_000_000_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "12 parsecs", "GiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse_bytes(text)


def test_needs_of_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    load_kinds.cache_clear()
    declared = {"resources": {"memory": "2 GiB", "device": "gpu", "threads": 3}}
    needs = plan_needs(
        plan(
            Step("told", params=declared),
            Step("estimated", params={"hog_mib": 64}),
            Step("unknown", params={"tag": "${told.tag}"}),
            Step("server", "probe-server"),
        ),
        StatePaths(tmp_path),
    )
    load_kinds.cache_clear()
    told = needs["told"]
    assert (told.estimate_bytes, told.declared, told.device, told.threads) == (
        2 * GIB,
        True,
        "gpu",
        3,
    )
    assert (needs["estimated"].estimate_bytes, needs["estimated"].declared) == (64 << 20, False)
    assert needs["unknown"].estimate_bytes is None
    assert needs["server"].shares
    assert not told.shares


def test_a_signature_forgets_where_and_which_seed() -> None:
    base = signature("finetune", {"lr": 1, "seed": 1, "resources": {"threads": 2}})
    assert base == signature("finetune", {"lr": 1, "seed": 9})
    assert base != signature("finetune", {"lr": 2, "seed": 1})
    assert base != signature("evaluate", {"lr": 1, "seed": 1})


def test_the_memory_of_a_session(tmp_path: Path) -> None:
    code = "x = bytearray(50 << 20); print('up', flush=True); import time; time.sleep(600)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        begun = {
            "pid": child.pid,
            "ticks": start_ticks(child.pid),
            "boot": boot_id(),
            "t": time.time(),
        }
        (tmp_path / "begun.json").write_text(json.dumps(begun))
        assert session_pids(tmp_path) == {child.pid}
        assert 50 << 20 < session_memory(tmp_path, "cpu") < 150 << 20
    finally:
        child.kill()
        child.wait()
    assert session_memory(tmp_path / "none", "cpu") == 0
    assert os.getpid() not in session_pids(tmp_path)
