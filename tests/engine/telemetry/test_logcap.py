"""Capped logs keep their size, their head and their newest part."""

from __future__ import annotations

from pathlib import Path

from engine.telemetry.disk import allocated
from engine.telemetry.logcap import cap_log

MIB = 1 << 20


def filled(path: Path, lines: int) -> bytes:
    data = b"".join(f"line {n:09d} {'x' * 84}\n".encode() for n in range(lines))
    path.write_bytes(data)
    return data


def test_a_log_below_the_cap_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    data = filled(log, 1000)
    assert cap_log(log, MIB) == 0
    assert cap_log(tmp_path / "none", MIB) == 0
    assert log.read_bytes() == data


def test_the_middle_becomes_a_hole_and_offsets_stay(tmp_path: Path) -> None:
    log = tmp_path / "log"
    data = filled(log, 100_000)
    given_back = cap_log(log, 4 * MIB)
    assert given_back > 5 * MIB
    assert log.stat().st_size == len(data)
    assert allocated(log) <= 4 * MIB
    after = log.read_bytes()
    assert after[:MIB] == data[:MIB]
    assert after[-MIB:] == data[-MIB:]
    assert b"\0" * MIB in after
    # a writer that appends goes on where it was
    with open(log, "ab") as file:
        file.write(b"next\n")
    assert log.read_bytes().endswith(data[-10:] + b"next\n")
    # it is not punched again at once
    assert cap_log(log, 4 * MIB) == 0
