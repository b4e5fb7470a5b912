"""Huey on SQLite, one queue a lane: carries job ids from the scheduler to the lane's thread.

Huey deletes a message before its task runs, so a message may be lost with the process; ``jobs.db``
is the truth and ``queue.db`` is thrown away at every start. Only the engine opens it: constructing
a SqliteHuey runs DDL under an exclusive lock.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


def remove_queue(path: Path) -> None:
    """Delete ``queue.db``: its contents are offered again from ``jobs.db``."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


class Lane:
    """One lane's queue and the thread that takes offers from it.

    Args:
        name: the lane (``cpu``, ``gpu-<uuid>``).
        path: ``queue.db``.
        run: called in the lane's thread with ``(lane name, job id)``; must not block for the run.
    """

    def __init__(self, name: str, path: Path, run: Callable[[str, str], None]) -> None:
        self.name = name
        self._run = run
        self._bell = threading.Condition()
        self._closed = False
        self._offered: set[str] = set()
        self._huey = _make_huey(name, path)
        self._task = self._huey.task(name="offer")(self._take)
        self._thread = threading.Thread(target=self._serve, name=f"lane-{name}", daemon=True)

    def start(self) -> None:
        """Begin to take offers."""
        self._thread.start()

    def offer(self, job_id: str) -> None:
        """Put a job id on the queue, once: an offer not yet taken is not repeated."""
        with self._bell:
            if job_id in self._offered or self._closed:
                return
            self._offered.add(job_id)
            try:
                self._task(job_id)
            except BaseException:
                # a failed enqueue is offered again by the next sweep
                self._offered.discard(job_id)
                raise
            self._bell.notify()

    def close(self) -> None:
        """Stop taking offers; what is queued stays in ``jobs.db``."""
        with self._bell:
            self._closed = True
            self._bell.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        self._huey.storage.close()

    # -- the lane's thread ------------------------------------------------------------------------

    def _serve(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._huey.execute(task)
            except Exception:  # noqa: BLE001  the lane must live, and the log keeps the reason
                # whatever went wrong, the row in jobs.db is offered again
                _log.exception("lane %s: an offer failed", self.name)

    def _next(self) -> Any:
        """The next message; blocks without polling until the bell rings (0.7 ms measured)."""
        while True:
            with self._bell:
                if self._closed:
                    return None
                try:
                    task = self._huey.dequeue()
                except (sqlite3.Error, ValueError):
                    _log.exception("lane %s: queue.db could not be read", self.name)
                    self._offered.clear()
                    self._bell.wait(2.0)
                    continue
                if task is not None:
                    return task
                self._bell.wait()

    def _take(self, job_id: str) -> None:
        with self._bell:
            self._offered.discard(job_id)
        self._run(self.name, job_id)


class JsonSerializer:
    """Huey messages as JSON: a pickle in a writable file would be code execution."""

    def serialize(self, message: Any) -> bytes:
        """A ``huey.registry.Message`` with plain arguments as JSON bytes."""
        return json.dumps([message.id, message.name, list(message.args)]).encode()

    def deserialize(self, data: bytes) -> Any:
        """The message back; fields we never use keep their defaults."""
        from huey.registry import Message

        identity, name, arguments = json.loads(bytes(data))
        return Message(
            id=identity,
            name=name,
            retries=0,
            retry_delay=0,
            args=tuple(arguments),
            kwargs={},
            retry_backoff=0,
        )


def _make_huey(name: str, path: Path) -> Any:
    # imported here: 62 ms of CPU, and only the engine needs it
    from huey import SqliteHuey

    logging.getLogger("huey").setLevel(logging.WARNING)
    # fsync off: nothing in this file is needed after a crash
    return SqliteHuey(
        name=name,
        filename=str(path),
        fsync=False,
        cache_mb=1,
        results=False,
        utc=True,
        serializer=JsonSerializer(),
    )
