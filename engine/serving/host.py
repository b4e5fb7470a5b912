"""The life behind a front: bring a server up, watch it, put it to sleep, switch to another version.

Exactly one server is current. A switch starts the new one beside it, asks it for a token, makes it
current, and lets the old one finish what it has begun: no request fails.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Conflict, ModelOpsError, StepFailed
from engine.serving.figures import Figures
from engine.serving.launch import Launch
from engine.serving.messages import HttpError
from engine.serving.server import ServerDied, ServerProcess
from engine.serving.upstream import UpstreamGone
from engine.types.serving import DeploymentState as State
from engine.types.serving import ServedVersion

#: Failed starts in a row after which the deployment fails.
MAX_FAILED_STARTS = 5
#: A server that lived so long starts a new count of restarts, with no pause.
HEALTHY_S = 60.0
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class HostSettings:
    """How a host behaves."""

    name: str
    task: str = "chat"
    idle_s: float = 0.0
    """Unload after so long without a request; 0: never."""
    max_queue: int = 256
    wait_s: float = 120.0
    """How long a request waits for a server that starts or wakes."""
    drain_s: float = 300.0
    """How long an old version may go on with what it has begun."""


class Host:
    """Owns the servers of one deployment.

    Args:
        settings: names and limits.
        version: what to serve first.
        prepare: finds, verifies and converts; blocking, called in a thread; returns how to start.
        figures: what the front counts.
        log: where the servers' output goes.
        on_switch: told of a new current version (it writes the record).
        has_room: raises ``DoesNotFit`` when a second server can't run beside the first.
    """

    def __init__(
        self,
        settings: HostSettings,
        version: ServedVersion,
        prepare: Callable[[ServedVersion], Launch],
        figures: Figures,
        log: Path,
        on_switch: Callable[[ServedVersion], None],
        has_room: Callable[[ServedVersion], None] = lambda _version: None,
    ) -> None:
        self.settings = settings
        self.version = version
        self.figures = figures
        self.state = State.STARTING
        self.reason = ""
        self.restarts = 0
        self.server: ServerProcess | None = None
        self.fatal: ModelOpsError | None = None
        self._prepare = prepare
        self._log = log
        self._on_switch = on_switch
        self._has_room = has_room
        self.moved = asyncio.Event()
        """Set with every new state; whoever shows states clears it."""
        self.begun = asyncio.Event()
        """Set when the first server's process runs, or none will."""
        self._ready = asyncio.Event()
        self._switching = asyncio.Lock()
        self._bringing: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._old: set[ServerProcess] = set()
        self._failures = 0

    # -- requests ---------------------------------------------------------------------------------

    async def acquire(self) -> ServerProcess:
        """The current server with a slot of it held; wakes it when it sleeps.

        Raises:
            HttpError: 429 when the queue is full, 503 when no server comes up in time.
        """
        if self.figures.queued >= self.settings.max_queue:
            raise HttpError(429, "too many requests wait already", "rate_limit_error", 1)
        self.figures.queued += 1
        try:
            server = await self._current()
            server.active += 1
            try:
                await server.slots.acquire()
            except BaseException:
                server.active -= 1
                raise
            return server
        finally:
            self.figures.queued -= 1

    def release(self, server: ServerProcess) -> None:
        """Give a slot back."""
        server.active -= 1
        server.slots.release()

    async def _current(self) -> ServerProcess:
        deadline = time.monotonic() + self.settings.wait_s
        while True:
            self.notice_death()
            if self.server is not None:
                return self.server
            if self.fatal is not None:
                raise HttpError(503, f"the model can't be served: {self.fatal}", "server_error")
            self.wake()
            left = deadline - time.monotonic()
            try:
                await asyncio.wait_for(self._ready.wait(), max(0.0, left))
            except TimeoutError as error:
                raise HttpError(
                    503, f"the model is not ready yet ({self.state})", "server_error", 5
                ) from error

    # -- life -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Begin to bring a server up, unless that is under way."""
        if self.server is None and (self._bringing is None or self._bringing.done()):
            self._bringing = asyncio.create_task(self._bring_up())

    async def _bring_up(self) -> None:
        async with self._switching:
            if self.server is not None:
                return
            if self.state is not State.RESTARTING:
                self._now(State.STARTING)
            while True:
                try:
                    self._make_current(await self._start(self.version), self.version)
                    return
                except ServerDied as error:
                    self._failures += 1
                    if self._failures >= MAX_FAILED_STARTS:
                        self._give_up(
                            StepFailed(
                                f"{self.settings.name} failed to start {self._failures} times",
                                why=f"{error.what}: {error.why}",
                                hint=f"`modelops-tui serve logs {self.settings.name}`",
                            )
                        )
                        return
                    self._now(State.RESTARTING, str(error))
                    await asyncio.sleep(self._pause())
                except ModelOpsError as error:
                    self._give_up(error)
                    return

    def _pause(self) -> float:
        return float(min(_LONGEST_PAUSE_S, 0.5 * 2 ** (self._failures - 1)))

    def _give_up(self, error: ModelOpsError) -> None:
        self.fatal = error
        self.begun.set()
        self._now(State.FAILED, str(error))
        self._ready.set()

    async def _start(self, version: ServedVersion) -> ServerProcess:
        launch = await asyncio.to_thread(self._prepare, version)
        server = ServerProcess(launch, version, self._log)
        self.begun.set()
        try:
            await server.wait_ready()
        except BaseException:
            server.kill()
            await asyncio.shield(server.stop(0))
            raise
        return server

    def _make_current(self, server: ServerProcess, version: ServedVersion) -> None:
        self.server = server
        self.version = version
        self.figures.last_used = time.monotonic()
        self._now(State.READY)
        self._ready.set()

    def _now(self, state: State, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.moved.set()

    def notice_death(self) -> None:
        """See whether the current server ended; if so, begin to restart it."""
        server = self.server
        if server is None or server.exit_status() is None:
            return
        lived = time.monotonic() - (server.ready_at or time.monotonic())
        self._failures = 0 if lived > HEALTHY_S else self._failures
        server.kill()
        self.server = None
        self._ready.clear()
        self.restarts += 1
        self._now(State.RESTARTING, f"the server ended with status {server.exit_status()}")
        self.wake()

    async def tick(self) -> None:
        """Call a few times a second: notices deaths and idleness.

        Raises:
            ModelOpsError: the deployment can't be served any more.
        """
        self.notice_death()
        if self.fatal is not None:
            raise self.fatal
        server = self.server
        if server is not None and server.ready_at is not None:
            healthy = time.monotonic() - server.ready_at > HEALTHY_S
            self._failures = 0 if healthy else self._failures
        idle = self.settings.idle_s
        resting = time.monotonic() - self.figures.last_used
        if idle and server is not None and not server.active and resting > idle:
            await self.unload()

    async def unload(self) -> bool:
        """Put the server to sleep; False when requests hold it. The next request wakes it."""
        async with self._switching:
            server = self.server
            if server is None:
                return True
            if server.active:
                return False
            self.server = None
            self._ready.clear()
            self._now(State.ASLEEP, "idle: the next request wakes it")
            await server.stop()
            return True

    async def switch(self, version: ServedVersion) -> None:
        """Serve another version without failing a request.

        Raises:
            ModelOpsError: the new version does not load, does not fit beside the old one or does
                not answer; the old one goes on.
        """
        async with self._switching:
            if self.server is not None and self.version.model == version.model:
                return
            if self.server is not None:
                await asyncio.to_thread(self._has_room, version)
            server = await self._start(version)
            try:
                await self._check(server)
            except BaseException:
                await asyncio.shield(server.stop())
                raise
            old = self.server
            self._on_switch(version)
            self._failures = 0
            self._make_current(server, version)
            if old is not None:
                self._old.add(old)
                task = asyncio.create_task(self._drain(old))
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)

    async def _drain(self, server: ServerProcess) -> None:
        deadline = time.monotonic() + self.settings.drain_s
        while server.active and time.monotonic() < deadline:  # noqa: ASYNC110  ends by a clock
            await asyncio.sleep(0.02)
        await server.stop()
        self._old.discard(server)

    async def _check(self, server: ServerProcess) -> None:
        """Ask a new server for one token (or vector) before anybody else does."""
        path, ask = "/v1/completions", {"prompt": "Hello", "max_tokens": 1}
        if self.settings.task == "embed":
            path, ask = "/v1/embeddings", {"input": "Hello"}
        body = json.dumps({"model": self.settings.name, **ask}).encode()
        headers = [*server.headers(), (b"content-type", b"application/json")]
        try:
            answer = await server.upstream.request("POST", path, headers, body)
            try:
                text = await answer.read()
            finally:
                answer.close()
        except UpstreamGone as error:
            raise ServerDied(
                "the new version ended at its first request", why=server.last_words()
            ) from error
        if answer.status != 200:
            raise Conflict(
                "the new version does not answer",
                why=f"status {answer.status}: {text[:300].decode('utf-8', 'replace')}",
                hint="the version before goes on serving",
            )

    async def close(self, drain_s: float) -> None:
        """Let what runs finish for a while, then end every server."""
        self._now(State.STOPPING)
        if self._bringing is not None:
            self._bringing.cancel()
            with suppress(asyncio.CancelledError):
                await self._bringing
        servers = [s for s in (self.server, *self._old) if s is not None]
        deadline = time.monotonic() + drain_s
        while any(s.active for s in servers) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for task in list(self._draining):
            task.cancel()
        self.server = None
        await asyncio.gather(*(s.stop() for s in servers))
