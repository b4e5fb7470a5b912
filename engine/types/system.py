"""The engine, the machine and its devices as the screens and the CLI see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.paths import StatePaths


@dataclass(frozen=True)
class EstimateContext:
    """What a kind's ``estimate`` function is told besides the step's parameters."""

    paths: StatePaths
    device: str = "auto"
    """``auto``, ``cpu`` or ``gpu``."""


@dataclass(frozen=True)
class Estimate:
    """What a step needs, told before it starts. Sizes in bytes."""

    memory_bytes: int
    """Peak memory on the device (RAM when it runs on the CPU)."""
    disk_bytes: int = 0
    seconds: float | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    """Memory by part: weights, gradients, optimizer, activations, cache."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceView:
    """A GPU, or the CPU with its RAM. Sizes in bytes."""

    lane: str
    """``cpu``, or ``gpu-<uuid>``."""
    name: str
    uuid: str | None
    index: int | None
    memory_total: int
    memory_free: int
    utilization: float | None
    """0 to 1; None where it can't be read."""
    temperature_c: float | None = None
    power_w: float | None = None
    holders: tuple[DeviceHolder, ...] = ()


@dataclass(frozen=True)
class DeviceHolder:
    """A process or job that holds memory of a device."""

    label: str
    """``job 000017-k3f9 (train)`` or ``pid 4242 (python)``."""
    memory_bytes: int | None
    job_id: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class EngineStatus:
    """The local engine, or that none runs."""

    running: bool
    pid: int | None = None
    version: str | None = None
    protocol: int | None = None
    started: float | None = None
    """Seconds since the epoch."""
    state_dir: str = ""
    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    lanes: tuple[LaneView, ...] = ()
    queued: int = 0
    active: int = 0
    message: str = ""


@dataclass(frozen=True)
class LaneView:
    """A lane and who has its turn."""

    name: str
    job_id: str | None
    attempt: int | None
    shares: tuple[str, ...] = ()
    """Jobs that hold a declared share beside the turn."""


@dataclass(frozen=True)
class DiskUse:
    """What a part of the state directory takes."""

    name: str
    path: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    status: str
    """``ok``, ``warning`` or ``problem``."""
    detail: str
    hint: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
