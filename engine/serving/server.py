"""One server process behind a front: started, watched until it answers, ended with all its kin."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.serving.launch import Launch
from engine.serving.upstream import Upstream, UpstreamGone

#: Seconds a server gets between TERM and KILL.
STOP_S = 5.0
#: How often a server that starts is asked whether it answers.
_ASK_AGAIN_S = 0.02


class ServerDied(ModelOpsError):
    """The backend's process ended, or did not answer in time."""

    code = "server_died"


class ServerProcess:
    """A running backend.

    Args:
        launch: how it is started.
        version: what it serves, for the record.
        log: the file its output is appended to.
    """

    def __init__(self, launch: Launch, version: Any, log: Path) -> None:
        self.launch = launch
        self.version = version
        self.upstream = Upstream("127.0.0.1", launch.port)
        self.slots = asyncio.Semaphore(launch.parallel)
        self.active = 0
        """Requests that hold it: running and queued."""
        self.ready_at: float | None = None
        self._log = log
        self._log_from = log.stat().st_size if log.exists() else 0
        begun = launch.warm.become(launch.argv, launch.env) if launch.warm is not None else None
        self._process = begun if begun is not None else _start(launch, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """How it ended, or None while it runs."""
        return self._process.poll()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What its requests must carry."""
        return [(b"authorization", b"Bearer " + self.launch.key.encode())]

    async def wait_ready(self) -> None:
        """Return when it answers.

        Raises:
            ServerDied: it ended first, or the time is over; the reason is the end of its log.
        """
        deadline = time.monotonic() + self.launch.start_timeout_s
        while time.monotonic() < deadline:
            if self.exit_status() is not None:
                raise ServerDied(
                    f"the server ended with status {self.exit_status()} before it was ready",
                    why=self.last_words(),
                )
            try:
                answer = await self.upstream.request("GET", self.launch.ready_path, self.headers())
            except UpstreamGone:
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            try:
                await answer.read()
            except UpstreamGone:
                continue
            finally:
                answer.close()
            if answer.status == 200:
                self.ready_at = time.monotonic()
                return
            await asyncio.sleep(_ASK_AGAIN_S)
        raise ServerDied(
            f"the server did not answer within {self.launch.start_timeout_s:.0f} s",
            why=self.last_words(),
        )

    def last_words(self, lines: int = 6) -> str:
        """The end of what it wrote."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(self._log_from, file.seek(0, os.SEEK_END) - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return f"its log can't be read: {error}"
        kept = [line.strip() for line in text.splitlines() if line.strip(" \0")]
        return "\n".join(kept[-lines:])

    def memory_bytes(self) -> int:
        """Resident memory of the process and everything under it."""
        return sum(_resident(pid) for pid in [self.pid, *_descendants(self.pid)])

    async def stop(self, grace: float = STOP_S) -> None:
        """TERM, a moment, then KILL of the group and of every descendant."""
        self.upstream.close()
        kin = _descendants(self.pid)
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.exit_status() is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.kill(kin)
        await asyncio.to_thread(self._process.wait)

    def kill(self, kin: list[int] | None = None) -> None:
        """KILL the group and the descendants, at once."""
        for pid in {*(kin or ()), *_descendants(self.pid)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            for child in map(int, text.split()):
                found += [child, *_descendants(child)]
    return found


def _start(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    """A cold start, where no process has been started in advance."""
    with open(log, "ab") as output:
        # a group of its own: the whole of it is killed, whatever the server forked
        return subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **launch.env},
            process_group=0,
        )


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
