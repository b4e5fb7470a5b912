"""How much memory an attempt's processes hold now, by the session its shim opened."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.devices import probe
from engine.supervise.durable import read_json_or_none
from engine.supervise.identity import boot_id

_PAGE = os.sysconf("SC_PAGE_SIZE")


def session_pids(attempt_folder: Path) -> set[int]:
    """The processes of a running attempt; empty before its shim's first word."""
    begun = read_json_or_none(attempt_folder / "begun.json")
    if begun is None or begun.get("boot") != boot_id():
        return set()
    session = int(begun["pid"])
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[3]) == session:
                found.add(int(name))
    return found


def session_memory(attempt_folder: Path, lane: str) -> int:
    """Bytes the attempt holds: on its GPU, or resident in RAM."""
    pids = session_pids(attempt_folder)
    if lane.startswith("gpu-"):
        for gpu in probe.gpus():
            if gpu.lane == lane:
                return sum(h.memory_bytes or 0 for h in gpu.holders if h.pid in pids)
        return 0
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1]) * _PAGE
    return total
