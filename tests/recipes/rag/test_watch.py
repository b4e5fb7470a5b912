from __future__ import annotations

import threading
import time
from pathlib import Path

from engine.paths import StatePaths
from engine.service import Service
from recipes.rag.watch import Watcher


def test_a_change_ends_the_wait_and_quiet_does_not(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with Watcher(tmp_path, sweep=10) as watcher:
        assert watcher.notified
        began = time.monotonic()
        threading.Timer(0.3, (tmp_path / "below" / "a.md").write_text, ["x"]).start()
        assert watcher.wait()
        assert time.monotonic() - began < 8
    with Watcher(tmp_path, sweep=0.3) as watcher:
        assert not watcher.wait()


def test_watch_takes_a_new_file_in(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# One\n\nFirst page.\n")
    with Service("rag", StatePaths(tmp_path / "state"), threads=1) as service:
        stream = service.call("watch", folder=str(folder), index="notes", sweep=5.0)
        documents = []
        for event in stream:
            if event["type"] == "synced":
                documents.append(event["report"]["documents"])
                if len(documents) == 1:
                    (folder / "b.md").write_text("# Two\n\nSecond page.\n")
                else:
                    break
        stream.close()
    assert documents[0] == 1
    assert documents[-1] == 2
