"""Files that grow are seen: by the kernel's events, and without them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engine.telemetry.watch import STAT_PAUSE_S, Growth


@pytest.mark.parametrize("inotify", [True, False])
def test_every_way_a_file_may_change(tmp_path: Path, inotify: bool) -> None:
    file = tmp_path / "events.jsonl"
    with Growth(file, tmp_path / "log", inotify=inotify) as growth:
        assert not growth.wait(0.0)
        file.write_text("a")
        assert growth.wait(60)
        assert not growth.wait(0.0), "told once"
        with open(file, "a") as out:
            out.write("b")
            out.flush()
            assert growth.wait(60)
        (tmp_path / "log").write_text("x")
        assert growth.wait(60)
        # a neighbour is no news, but ends no wait early either
        (tmp_path / "other").write_text("x")
        begin = time.monotonic()
        assert not growth.wait(0.3)
        assert time.monotonic() - begin >= 0.3


def test_the_kernel_wakes_at_once(tmp_path: Path) -> None:
    """Faster than any look ten times a second could be: the best of many on a busy machine."""
    file = tmp_path / "events.jsonl"
    file.touch()
    waits: list[float] = []
    with Growth(file) as growth:
        while len(waits) < 20 or (min(waits) >= STAT_PAUSE_S / 10 and len(waits) < 400):
            written: list[float] = []
            thread = threading.Timer(0.03, append, (file, written))
            thread.start()
            assert growth.wait(60)
            waits.append(time.monotonic() - written[0])
            thread.join()
    assert min(waits) < STAT_PAUSE_S / 10


def append(file: Path, written: list[float]) -> None:
    written.append(time.monotonic())
    with open(file, "a") as out:
        out.write("x")


def test_a_folder_that_is_not_there_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "later" / "events.jsonl"
    with Growth(file) as growth:
        file.parent.mkdir()
        file.write_text("x")
        assert growth.wait(60)
