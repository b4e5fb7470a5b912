"""Huey's lanes: JSON only, no polling, lost and doubled messages are harmless."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

from engine.queue.dispatcher import Lane, remove_queue


def started(path: Path, taken: list[str]) -> Lane:
    lane = Lane("cpu", path, lambda _, job_id: taken.append(job_id))
    lane.start()
    return lane


def wait_for(taken: list[str], count: int) -> None:
    deadline = time.monotonic() + 120
    while len(taken) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_offers_arrive_at_once_and_in_order(tmp_path: Path) -> None:
    taken: list[str] = []
    lane = started(tmp_path / "queue.db", taken)
    waits: list[float] = []
    # the best of four, and of more on a machine that is busy with something else
    while len(waits) < 4 or (min(waits) >= 0.1 and len(waits) < 100):
        # an idle lane does not back off: huey's own consumer would sleep for longer each time
        time.sleep(0.3)
        begin = time.perf_counter()
        lane.offer(f"idle-{len(waits)}")
        wait_for(taken, len(waits) + 1)
        waits.append(time.perf_counter() - begin)
    assert min(waits) < 0.1
    for name in "efg":
        lane.offer(name)
    wait_for(taken, len(waits) + 3)
    assert taken == [*(f"idle-{n}" for n in range(len(waits))), *"efg"]
    lane.close()
    assert not [t for t in threading.enumerate() if t.name == "lane-cpu"]


def test_an_offer_not_yet_taken_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    lane = Lane("cpu", path, lambda *_: None)
    for _ in range(3):
        lane.offer("a")
    conn = sqlite3.connect(path)
    rows = [bytes(row[0]) for row in conn.execute("SELECT data FROM task")]
    conn.close()
    assert len(rows) == 1
    assert json.loads(rows[0])[2] == ["a"]
    lane.close()


def test_an_error_in_one_offer_leaves_the_lane_alive(tmp_path: Path) -> None:
    taken: list[str] = []

    def run(_: str, job_id: str) -> None:
        if job_id == "bad":
            raise RuntimeError("broken")
        taken.append(job_id)

    lane = Lane("cpu", tmp_path / "queue.db", run)
    lane.start()
    lane.offer("bad")
    lane.offer("good")
    wait_for(taken, 1)
    lane.close()


def test_the_queue_is_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    lane = Lane("cpu", path, lambda *_: None)
    lane.offer("a")
    lane.close()
    remove_queue(path)
    assert list(tmp_path.iterdir()) == []
    remove_queue(path)
