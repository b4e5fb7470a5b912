"""Following the runs: the newest event of each goes to its job's ``last_*`` columns, about 1 Hz."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.paths import StatePaths
from engine.store.connection import transaction

#: When more than this was appended since the last look, only the end is read.
_TAIL_BYTES = 256 << 10

_COLUMNS = (
    "last_done",
    "last_total",
    "last_unit",
    "last_loss",
    "last_rate",
    "last_eta_s",
    "last_memory_bytes",
    "last_message",
    "last_event_at",
)


def read_new(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Whole events after ``offset`` and the next offset; the middle of a long gap is skipped."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return [], offset
    if size <= offset:
        return [], offset
    start = max(offset, size - _TAIL_BYTES)
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size - start)
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")
    if start > offset:
        lines = lines[1:]
    events = []
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                events.append(record)
    return events, start + end if end else offset


def columns(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the newest of ``events`` say, as values of the ``last_*`` columns."""
    values: dict[str, Any] = {}
    for event in events:
        reader = _READERS.get(str(event.get("type")))
        if reader is not None:
            values.update(reader(event))
            values["last_event_at"] = event.get("t")
    return {key: value for key, value in values.items() if key in _COLUMNS}


def _progress(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "last_done": event.get("done"),
        "last_total": event.get("total"),
        "last_unit": event.get("unit"),
        "last_eta_s": event.get("eta_s"),
    }


def _metrics(event: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "done": "last_done",
        "total": "last_total",
        "loss": "last_loss",
        "tokens_per_s": "last_rate",
        "eta_s": "last_eta_s",
        "peak_memory_bytes": "last_memory_bytes",
    }
    # an event without a value (an evaluation has no learning loss) does not erase the last one
    return {names[key]: event[key] for key in names if event.get(key) is not None}


def _message(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"last_message": event.get("name") or event.get("text")}


_READERS = {
    "progress": _progress,
    "metrics": _metrics,
    "phase": _message,
    "note": _message,
}


def save(conn: sqlite3.Connection, updates: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the ``last_*`` columns of several jobs in one commit.

    The caller's connection uses ``synchronous=NORMAL``: progress needs no fsync of its own.
    """
    with transaction(conn):
        for job_id, values in updates.items():
            names = list(values)
            conn.execute(
                f"UPDATE jobs SET {', '.join(f'{name}=?' for name in names)} WHERE id=?",
                [*(values[name] for name in names), job_id],
            )


def append_event(paths: StatePaths, job_id: str, record: Mapping[str, Any]) -> None:
    """Append one event of the engine's own (one O_APPEND write; a full disk loses only this)."""
    line = (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode()
    with suppress(OSError):
        fd = os.open(
            paths.job_events(job_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(fd, line)
        finally:
            os.close(fd)
