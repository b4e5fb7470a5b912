from __future__ import annotations

import threading
from pathlib import Path

from engine.paths import StatePaths
from engine.service import Service
from recipes.rag.watch import Watcher


def test_a_change_ends_the_wait_and_quiet_does_not(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with Watcher(tmp_path, sweep=200) as watcher:
        assert watcher.notified
        timer = threading.Timer(0.3, (tmp_path / "below" / "a.md").write_text, ["x"])
        timer.start()
        # True is for a notification: the sweep would come in minutes, and say False
        assert watcher.wait()
        timer.join()
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
                    # whole at once: a sync that comes in between would find it empty
                    fresh = tmp_path / "fresh.md"
                    fresh.write_text("# Two\n\nSecond page.\n")
                    fresh.rename(folder / "b.md")
                else:
                    break
        stream.close()
    assert documents == [1, 2]
