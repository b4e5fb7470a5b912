"""One program on a pty: CPU, bytes and memory from the outside, by /proc and the terminal's end."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.terminal.session import Session
from tests.terminal.soak import pss_mb as memory_mb

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


@dataclass(frozen=True)
class Program:
    """What to start, and the text that its first whole frame shows."""

    argv: list[str]
    env: dict[str, str]
    ready: str

    def start(self) -> Session:
        return Session(self.argv, self.env, (100, 30))


def first_frames(programs: dict[str, Program], runs: int) -> dict[str, float]:
    """Median CPU seconds until each one's text is drawn, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            with program.start() as session:
                session.wait_for(program.ready)
                found[name].append(precise_cpu_seconds(session.process.pid))
    return {name: statistics.median(values) for name, values in found.items()}


def over(session: Session, seconds: float) -> tuple[float, float]:
    """``(CPU share, bytes a second)`` over the next seconds."""
    pid = session.process.pid
    cpu, drawn, begin = precise_cpu_seconds(pid), len(session.output), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    return (precise_cpu_seconds(pid) - cpu) / took, (len(session.output) - drawn) / took


def key_latencies(session: Session, keys: Iterable[str], pause_s: float = 0.15) -> list[float]:
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


def at(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values) or [0.0]
    return ordered[max(0, int(len(ordered) * share) - 1)]


__all__ = [
    "Program",
    "at",
    "cpu_seconds",
    "first_frames",
    "key_latencies",
    "memory_mb",
    "over",
    "precise_cpu_seconds",
    "settled",
]
