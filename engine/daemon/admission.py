"""From rows and readings to the scheduler's plain values, and back to measured peaks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable

from engine.daemon.attempts import Running
from engine.daemon.settings import EngineSettings
from engine.daemon.steps import cards_of
from engine.devices import probe
from engine.paths import StatePaths
from engine.queue.schedule import Decision, LaneState, Waiting, gib, schedule
from engine.store import run
from engine.store.run import Outcome
from engine.supervise.durable import read_json_or_none

#: A measured peak is asked for again with this margin.
PEAK_MARGIN = 1.1

#: Queued rows looked at in one pass, in the order they would start.
_WINDOW = 500

_QUEUED = """
SELECT j.id, j.seq, j.priority, j.passed, s.lane, s.device, s.shares, s.declared,
       s.estimate_bytes, s.signature, s.params, p.bytes AS peak
FROM jobs j JOIN steps s ON s.job_id = j.id AND s.name = j.step
LEFT JOIN peaks p ON p.signature = s.signature
    AND p.device = CASE WHEN s.lane = 'cpu' OR s.device = 'cpu' THEN 'cpu' ELSE ? END
WHERE j.state = 'queued' AND j.want IS NULL
ORDER BY j.priority + j.passed / 8 DESC, j.seq LIMIT ?
"""


class Admission:
    """Knows the lanes, what running jobs were promised, and what is free."""

    def __init__(self, paths: StatePaths, settings: EngineSettings) -> None:
        self._paths = paths
        # asked once: cards do not come and go while an engine lives
        cards = [gpu.lane for gpu in probe.gpus()]
        self._has_gpu = bool(cards)
        cpus = [f"{probe.CPU_LANE}-{n}" for n in range(2, settings.cpu_lanes + 1)]
        self.lane_names = [*cards, probe.CPU_LANE, *cpus]
        self._promised: dict[tuple[str, int], int] = {}
        self._sharing: dict[tuple[str, int], bool] = {}
        self.waiting_for_memory = False

    def shares(self, running: Running) -> bool:
        """True for an attempt that holds a declared share instead of the lane's turn."""
        return self._sharing.get((running.job_id, running.attempt), False)

    def decide(
        self, conn: sqlite3.Connection, running: Collection[Running], resting: set[str]
    ) -> Decision:
        """Who starts where now, and why the others wait."""
        rows = conn.execute(_QUEUED, ("gpu" if self._has_gpu else "cpu", _WINDOW)).fetchall()
        waiting = [_waiting(row) for row in rows if row["id"] not in resting]
        self.waiting_for_memory = False
        if not waiting:
            return Decision((), {})
        self.learn(conn, running)
        need_memory = any(item.need_bytes for item in waiting)
        decision = schedule(waiting, self._lanes(conn, running, need_memory))
        self.waiting_for_memory = any("memory" in text for text in decision.reasons.values())
        return decision

    def measured(self, conn: sqlite3.Connection, running: Running, outcome: Outcome) -> None:
        """Keep the measured peak of a finished attempt for the next one like it."""
        key = (running.job_id, running.attempt)
        self._promised.pop(key, None)
        self._sharing.pop(key, None)
        if outcome.state != "succeeded" or outcome.exit is None or outcome.began is None:
            return
        on_gpu = running.lane.startswith("gpu-")
        result = read_json_or_none(running.folder / "result.json") or {}
        peak = result.get("peak_memory_bytes")
        if not on_gpu:
            # the kernel's figure is that of the largest process: a step of several tells its own
            peak = max(int(outcome.exit.get("max_rss_bytes") or 0), int(peak or 0))
        row = conn.execute(
            "SELECT signature FROM steps WHERE job_id=? AND name=?",
            (running.job_id, running.step),
        ).fetchone()
        if peak and row is not None and row["signature"]:
            seconds = max(0.0, float(outcome.exit["t"]) - outcome.began)
            run.remember_peak(
                conn, row["signature"], "gpu" if on_gpu else "cpu", int(peak), seconds
            )

    # -- inside -----------------------------------------------------------------------------------

    def learn(self, conn: sqlite3.Connection, running: Iterable[Running]) -> None:
        """Learn what newly running attempts were promised."""
        for attempt in running:
            key = (attempt.job_id, attempt.attempt)
            if key in self._promised:
                continue
            row = conn.execute(
                "SELECT s.*, p.bytes AS peak FROM steps s LEFT JOIN peaks p"
                " ON p.signature = s.signature AND p.device = ? WHERE s.job_id=? AND s.name=?",
                ("gpu" if attempt.lane.startswith("gpu-") else "cpu", attempt.job_id, attempt.step),
            ).fetchone()
            self._promised[key] = (_need(row) if row is not None else 0) or 0
            self._sharing[key] = bool(row["shares"]) if row is not None else False

    def _lanes(
        self, conn: sqlite3.Connection, running: Collection[Running], need_memory: bool
    ) -> list[LaneState]:
        readings = {}
        if need_memory:
            readings = {device.lane: device for device in probe.devices()}
        lanes = []
        for name in self.lane_names:
            here = [r for r in running if name in r.lanes]
            turn = next((r for r in here if not self.shares(r)), None)
            device = readings.get(name if name.startswith("gpu-") else probe.CPU_LANE)
            holders = [self._holding(r) for r in here]
            if device is not None:
                holders += [
                    f"{h.label}: {gib(h.memory_bytes or 0)}"
                    for h in device.holders
                    if h.job_id is None
                ]
            free = 0
            if device is not None:
                free = device.memory_free - self._outstanding(name, running)
            lanes.append(
                LaneState(
                    name=name,
                    total=device.memory_total if device is not None else 0,
                    free=free,
                    busy_with=_label(turn) if turn is not None else None,
                    holders=tuple(holders),
                )
            )
        return lanes

    def _outstanding(self, lane: str, running: Iterable[Running]) -> int:
        """Memory promised to running jobs of this device that they have not taken yet."""
        from engine.devices.usage import session_memory

        on_gpu = lane.startswith("gpu-")
        missing = 0
        for attempt in running:
            if attempt.lane.startswith("gpu-") != on_gpu or (on_gpu and lane not in attempt.lanes):
                continue
            promised = self._promised.get((attempt.job_id, attempt.attempt), 0)
            if promised:
                missing += max(0, promised - session_memory(attempt.folder, lane))
        return missing

    def _holding(self, running: Running) -> str:
        promised = self._promised.get((running.job_id, running.attempt), 0)
        return f"{_label(running)}: {gib(promised)}" if promised else _label(running)


def _waiting(row: sqlite3.Row) -> Waiting:
    return Waiting(
        job_id=row["id"],
        seq=row["seq"],
        priority=row["priority"],
        passed=row["passed"],
        lane=row["lane"],
        device=row["device"],
        need_bytes=_need(row),
        shares=bool(row["shares"]),
        cards=cards_of(json.loads(row["params"])),
    )


def _need(row: sqlite3.Row) -> int | None:
    """A declared size stands; else the measured peak with its margin; else the estimate."""
    if row["declared"] and row["estimate_bytes"] is not None:
        return int(row["estimate_bytes"])
    if row["peak"] is not None:
        return int(row["peak"] * PEAK_MARGIN)
    return int(row["estimate_bytes"]) if row["estimate_bytes"] is not None else None


def _label(running: Running) -> str:
    return f"job {running.job_id} ({running.step})"
