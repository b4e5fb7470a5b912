"""One program on a pty: CPU, bytes and memory from the outside, by /proc and the terminal's end."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from tests.terminal.session import Session

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, with those of its ended children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def precise_cpu_seconds(pid: int) -> float:
    """As ``cpu_seconds`` in nanoseconds of the scheduler: for what takes less than a tick."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_mb(pid: int) -> float:
    """Proportional set size in MB: shared library pages count for a share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no Pss in smaps_rollup")


def settled(session: Session, quiet_s: float = 0.6, limit_s: float = 30.0) -> None:
    """Until nothing was drawn for a while."""
    end = time.monotonic() + limit_s
    seen, since = len(session.output), time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.02)
        if len(session.output) != seen:
            seen, since = len(session.output), time.monotonic()
        elif time.monotonic() - since > quiet_s and seen:
            return


def first_frame(argv: list[str], env: dict[str, str], text: str, runs: int) -> tuple[float, float]:
    """Median CPU and wall seconds until ``text`` is drawn."""
    cpu, wall = [], []
    for _ in range(runs):
        begin = time.monotonic()
        with Session(argv, env, (100, 30)) as session:
            session.wait_for(text)
            wall.append(time.monotonic() - begin)
            cpu.append(precise_cpu_seconds(session.process.pid))
    return statistics.median(cpu), statistics.median(wall)


def over(session: Session, seconds: float) -> tuple[float, float]:
    """``(CPU share, bytes a second)`` over the next seconds."""
    pid = session.process.pid
    cpu, drawn, begin = precise_cpu_seconds(pid), len(session.output), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    return (precise_cpu_seconds(pid) - cpu) / took, (len(session.output) - drawn) / took


def key_latencies(session: Session, keys: str, pause_s: float = 0.15) -> list[float]:
    """Seconds from a key to the first byte that it causes."""
    found = []
    for key in keys:
        before = len(session.times)
        begin = time.monotonic()
        session.press(key)
        end = begin + 2.0
        while len(session.times) == before and time.monotonic() < end:
            time.sleep(0.0005)
        if len(session.times) > before:
            found.append(session.times[before][0] - begin)
        time.sleep(pause_s)
    return found
