"""What is in this machine now: GPUs through NVML, the CPU and its RAM through /proc.

``MODELOPS_FAKE_GPUS`` names a JSON file of GPUs (``[{"uuid", "name", "total", "free"}]``) for tests
of lanes and admission on machines that have none. A machine without a driver is a normal machine.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.types.system import DeviceHolder, DeviceView

ENV_FAKE = "MODELOPS_FAKE_GPUS"
CPU_LANE = "cpu"

_log = logging.getLogger(__name__)

_lock = threading.Lock()
_nvml: Any = None
_nvml_failed = ""
"""Why the library did not answer; empty while it was not asked or did."""


@dataclass(frozen=True)
class Memory:
    """RAM this process may use, in bytes (the cgroup's limit when that is lower)."""

    total: int
    free: int


def ram(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Total and available RAM."""
    values = {}
    for line in proc.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in ("MemTotal", "MemAvailable"):
            values[key] = int(rest.split()[0]) * 1024
    total, free = values["MemTotal"], values["MemAvailable"]
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        if limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return Memory(total, free)


def gpus() -> list[DeviceView]:
    """The GPUs by UUID; empty without a driver."""
    fake = os.environ.get(ENV_FAKE)
    if fake:
        return _fake(Path(fake))
    with _lock:
        nvml = _open_nvml()
        if nvml is None:
            return []
        return _read_gpus(nvml)


def why_no_gpu() -> str:
    """The reason ``gpus`` is empty, as NVML gives it."""
    gpus()
    return _nvml_failed or "the driver answers and knows of no card"


def devices() -> list[DeviceView]:
    """Every device: the GPUs, then the CPU."""
    memory = ram()
    cpu = DeviceView(
        lane=CPU_LANE,
        name=_cpu_name(),
        uuid=None,
        index=None,
        memory_total=memory.total,
        memory_free=memory.free,
        utilization=_cpu_load(),
    )
    return [*gpus(), cpu]


def has_gpu() -> bool:
    """True when at least one GPU answers."""
    return bool(gpus())


def _fake(path: Path) -> list[DeviceView]:
    return [
        DeviceView(
            lane=f"gpu-{item['uuid']}",
            name=str(item.get("name", "fake")),
            uuid=str(item["uuid"]),
            index=index,
            memory_total=int(item["total"]),
            memory_free=int(item["free"]),
            utilization=item.get("utilization"),
        )
        for index, item in enumerate(json.loads(path.read_text()))
    ]


def _open_nvml() -> Any:
    """The initialised library, or None. Asked once: without a driver it costs nothing later."""
    global _nvml, _nvml_failed
    if _nvml is None and not _nvml_failed:
        try:
            import pynvml

            pynvml.nvmlInit()
            _nvml = pynvml
        except Exception as error:  # noqa: BLE001  no library, no driver, no permission: no GPU for us
            _nvml_failed = f"NVML: {error or type(error).__name__}"
    return _nvml


def _read_gpus(nvml: Any) -> list[DeviceView]:
    found = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        _log.warning("the GPUs can't be counted: %s", error)
        return []
    for index in range(count):
        try:
            found.append(_read_gpu(nvml, index))
        except nvml.NVMLError as error:
            # one card fell off the bus: the others and the engine go on
            _log.warning("GPU %d does not answer: %s", index, error)
    return found


def _read_gpu(nvml: Any, index: int) -> DeviceView:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    return DeviceView(
        lane=f"gpu-{uuid}",
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=uuid,
        index=index,
        memory_total=int(memory.total),
        memory_free=int(memory.free),
        utilization=_maybe(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100),
        temperature_c=_maybe(lambda: nvml.nvmlDeviceGetTemperature(handle, 0)),
        power_w=_maybe(lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1000),
        holders=_holders(nvml, handle),
    )


def _holders(nvml: Any, handle: Any) -> tuple[DeviceHolder, ...]:
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return ()
    holders = [
        DeviceHolder(f"pid {p.pid} ({_command(p.pid)})", p.usedGpuMemory, pid=int(p.pid))
        for p in processes
    ]
    return tuple(sorted(holders, key=lambda holder: -(holder.memory_bytes or 0)))


def _maybe(read: Any, scale: float = 1) -> float | None:
    """A reading that some cards and containers refuse."""
    try:
        return float(read()) / scale
    except Exception:  # noqa: BLE001  NVML raises a class a card can't be asked for beforehand
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "another user's or container's process"


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} x {os.cpu_count()}"
    return f"{os.cpu_count()} CPU cores"


def _cpu_load() -> float | None:
    with suppress(OSError):
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    return None
