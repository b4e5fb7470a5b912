"""Model name -> deployment, and the answer of its server carried back as it comes."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from engine.api import Workbench
from engine.errors import BadInput, Conflict, EngineUnavailable, NotFound
from engine.serving import records
from engine.serving.figures import Figures
from engine.serving.messages import Disconnected, HttpError, Receive, Scope, Send, send_error
from engine.serving.relay import carry, left
from engine.serving.upstream import Upstream, UpstreamGone
from engine.types.serving import DeploymentState

#: What a model name begins with that means answers over an index.
RAG = "rag:"
_GONE = (DeploymentState.STOPPED, DeploymentState.FAILED, DeploymentState.STOPPING)
#: How often a request that waits looks whether its deployment is there.
_LOOK_S = 0.2


class Router:
    """Model name -> deployment, with a kept connection pool for each address.

    Args:
        bench: where the deployments are.
        wait_s: how long a request waits for a deployment that starts, wakes or restarts.
        start_engine: whether a request may start the engine its deployment waits for.
    """

    def __init__(
        self, bench: Workbench, *, wait_s: float = 120.0, start_engine: bool = True
    ) -> None:
        self.bench = bench
        self.wait_s = wait_s
        self._start_engine = start_engine
        self._pools: dict[str, Upstream] = {}
        self._known: dict[str, tuple[tuple[int, int], records.Record, str]] = {}
        self.figures = Figures()

    def models(self) -> list[dict[str, Any]]:
        """Everything that can be named, in the OpenAI form."""
        names = []
        for view in self.bench.serving.list():
            if view.state not in _GONE:
                names += [view.name, *view.adapters]
        names += [f"{RAG}{index.name}" for index in self.bench.rag.list()]
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "modelops-tui"}
            for name in names
        ]

    def upstream(self, url: str) -> Upstream:
        """The pool of an address."""
        if url not in self._pools:
            parts = urlsplit(url)
            tls = None
            if parts.scheme == "https":
                import ssl

                # our own deployment on this machine; its certificate names another host
                tls = ssl.create_default_context()
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
            self._pools[url] = Upstream(parts.hostname or "127.0.0.1", parts.port or 80, tls)
        return self._pools[url]

    def deployment(self, model: str) -> records.Record:
        """The record of the deployment that answers for ``model``.

        Raises:
            HttpError: 404 when nothing does.
        """
        with suppress(NotFound, BadInput):
            return self._look(model)[0]
        for record in records.all_records(self.bench.paths):
            if model in record.adapters:
                return record
        raise HttpError(404, f"the model {model!r} does not exist", "invalid_request_error")

    def key(self, record: records.Record) -> str:
        """The key its front asks for; empty where it asks for none."""
        with suppress(NotFound, BadInput):
            return self._look(record.name)[1]
        return ""

    def _look(self, name: str) -> tuple[records.Record, str]:
        """Record and key of a deployment, read again only when the record was replaced."""
        file = records.folder(self.bench.paths, name) / "deployment.json"
        try:
            stat = os.stat(file)
        except FileNotFoundError:
            self._known.pop(name, None)
            return records.load(self.bench.paths, name), ""
        stamp = (stat.st_ino, stat.st_mtime_ns)
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            record = records.load(self.bench.paths, name)
            key = records.secret(self.bench.paths, name, "key") if record.has_key else ""
            known = self._known[name] = (stamp, record, key)
        return known[1], known[2]

    def revive(self, record: records.Record) -> None:
        """Resume a paused deployment, and see to it that an engine runs what waits for one.

        Raises:
            HttpError: 503 when it is stopped or has failed, or no engine runs.
        """
        view = self.bench.serving.get(record.name)
        if view.state is DeploymentState.PAUSED:
            with suppress(Conflict):
                self.bench.serving.resume(record.name)
        elif view.state in _GONE:
            raise self.unavailable(record, view.state, view.reason, retry_after=0)
        elif view.state is not DeploymentState.WAITING:
            return
        if self.bench.system.engine_status().running:
            return
        if not self._start_engine:
            raise self.unavailable(record, DeploymentState.WAITING, "no engine runs")
        try:
            self.bench.system.ensure_engine()
        except EngineUnavailable as error:
            raise self.unavailable(record, DeploymentState.WAITING, str(error)) from error

    def late(self, record: records.Record) -> HttpError:
        """What a request is told that has waited long enough."""
        view = self.bench.serving.get(record.name)
        return self.unavailable(record, view.state, view.reason)

    @staticmethod
    def unavailable(
        record: records.Record, state: DeploymentState, reason: str, retry_after: int = 5
    ) -> HttpError:
        """503 with the state and its reason; ``retry_after`` (seconds) where it may pass."""
        why = f": {reason}" if reason else ""
        return HttpError(
            503, f"the deployment {record.name} is {state}{why}", "server_error", retry_after
        )

    def close(self) -> None:
        """End the kept connections."""
        for pool in self._pools.values():
            pool.close()


class RelayResponse(Response):
    """A response that is relayed from a deployment as its bytes come, never parsed."""

    def __init__(self, router: Router, record: records.Record, path: str, body: bytes) -> None:
        super().__init__()
        self._router = router
        self._record = record
        self._path = path
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay; a deployment that is restarted or moved is waited for, before the first byte."""
        figures, began, ok = self._router.figures, time.monotonic(), False
        figures.began()
        figures.active += 1
        try:
            ok = await self._try(receive, send, began)
        except Disconnected:
            ok = True
        except HttpError as error:
            await send_error(send, error)
        finally:
            figures.active -= 1
            figures.ended(time.monotonic() - began, ok=ok)

    async def _try(self, receive: Receive, send: Send, began: float) -> bool:
        record = self._record
        router, deadline = self._router, time.monotonic() + self._router.wait_s
        while True:
            key = router.key(record)
            headers = [(b"content-type", b"application/json")]
            if key:
                headers.append((b"authorization", b"Bearer " + key.encode()))
            upstream, answer = router.upstream(record.url), None
            try:
                answer = await upstream.request("POST", self._path, headers, self._body)
                return await carry(answer, send, receive, router.figures, began)
            except UpstreamGone as error:
                await asyncio.to_thread(router.revive, record)
                if time.monotonic() > deadline:
                    raise await asyncio.to_thread(router.late, record) from error
            finally:
                if answer is not None:
                    answer.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await left(receive)
                    raise Disconnected
            record = await asyncio.to_thread(router.deployment, record.name)
