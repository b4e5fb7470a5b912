"""The public face of one deployment: an ASGI app that checks, queues and relays to its server.

``/v1/*`` speaks the OpenAI protocol, ``/health`` and ``/metrics`` tell how it is, and ``/-/*`` is
for the program's own commands (a token only this user can read).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.errors import ModelOpsError
from engine.serving.host import Host
from engine.serving.messages import (
    Disconnected,
    HttpError,
    Receive,
    Scope,
    Send,
    bearer,
    json_object,
    read_body,
    same_secret,
    send_error,
    send_json,
)
from engine.serving.relay import as_http_error, carry
from engine.serving.upstream import UpstreamGone
from engine.serving.vectors import one_vector_a_text
from engine.types.serving import DeploymentState

#: Paths of the OpenAI protocol that are passed on.
RELAYED = {
    "chat": ("/v1/chat/completions", "/v1/completions"),
    "embed": ("/v1/embeddings",),
}
_TRIES = 3

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class FrontSettings:
    """Who may come in, and how much they may bring."""

    key: str = ""
    """The API key; empty: none is asked for."""
    admin: str = ""
    max_body: int = 8 << 20


class Front:
    """The ASGI app.

    Args:
        host: the deployment's life.
        settings: keys and limits.
        models: names clients may use, now (the deployment's own first).
        commands: what ``/-/<name>`` does.
    """

    def __init__(
        self,
        host: Host,
        settings: FrontSettings,
        models: Callable[[], list[str]],
        commands: dict[str, Command],
    ) -> None:
        self._host = host
        self._settings = settings
        self._models = models
        self._commands = commands

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, the client hears a clean end."""
        if scope["type"] != "http":
            return
        try:
            await self._route(scope, receive, send)
        except Disconnected:
            return
        except HttpError as error:
            with suppress(OSError):
                await send_error(send, error)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/health":
            await self._health(send)
        elif path.startswith("/-/"):
            await self._command(path.removeprefix("/-/"), scope, receive, send)
        else:
            self._admit(scope)
            if path == "/v1/models" and method == "GET":
                names = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "modelops-tui"}
                    for name in self._models()
                ]
                await send_json(send, 200, json.dumps({"object": "list", "data": names}).encode())
            elif path == "/metrics" and method == "GET":
                await self._metrics(send)
            elif path in RELAYED[self._host.settings.task]:
                if method != "POST":
                    raise HttpError(405, f"{path} takes POST")
                await self._relay(path, scope, receive, send)
            else:
                raise HttpError(404, f"there is no {path} here")

    def _admit(self, scope: Scope) -> None:
        if self._settings.key and not same_secret(bearer(scope), self._settings.key):
            raise HttpError(401, "the API key is missing or wrong", "authentication_error")

    # -- requests ---------------------------------------------------------------------------------

    async def _relay(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._settings.max_body)
        document = json_object(body)
        names = self._models()
        model = document.setdefault("model", names[0])
        if model not in names:
            raise HttpError(404, f"there is no model {model!r} here: {', '.join(names)}")
        figures, began, ok = self._host.figures, time.monotonic(), False
        figures.began()
        figures.active += 1
        try:
            ok = await self._try(path, document, receive, send, began)
        except Disconnected:
            # the client's own doing: not a failure of the deployment
            ok = True
            raise
        finally:
            figures.active -= 1
            figures.ended(time.monotonic() - began, ok=ok)

    async def _try(
        self, path: str, document: dict[str, Any], receive: Receive, send: Send, began: float
    ) -> bool:
        """Send it to the current server; once more where that died before it answered a byte."""
        body, change = json.dumps(document).encode(), None
        if path == "/v1/embeddings":
            encoding = str(document.get("encoding_format") or "float")
            change = partial(one_vector_a_text, encoding=encoding)
        for attempt in range(1, _TRIES + 1):
            server = await self._host.acquire()
            answer = None
            try:
                headers = [*server.headers(), (b"content-type", b"application/json")]
                answer = await server.upstream.request("POST", path, headers, body)
                return await carry(answer, send, receive, self._host.figures, began, change)
            except UpstreamGone as error:
                if attempt == _TRIES:
                    raise as_http_error(error) from error
                await asyncio.sleep(0.05 * attempt)
            finally:
                if answer is not None:
                    answer.close()
                self._host.release(server)
        return False

    # -- how it is --------------------------------------------------------------------------------

    async def _health(self, send: Send) -> None:
        state = self._host.state
        good = state in (DeploymentState.READY, DeploymentState.ASLEEP)
        body = json.dumps({"status": "ok" if good else str(state), "state": str(state)})
        await send_json(send, 200 if good else 503, body.encode())

    async def _metrics(self, send: Send) -> None:
        body = metrics_text(self._host).encode()
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _command(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._settings.admin or not same_secret(bearer(scope), self._settings.admin):
            raise HttpError(401, "this path is for the program's own commands")
        if name not in self._commands or scope["method"] != "POST":
            raise HttpError(404, f"there is no command {name!r}")
        params = json_object(await read_body(scope, receive, 1 << 20) or b"{}")
        try:
            value = {"result": await self._commands[name](params)}
        except HttpError:
            raise
        except ModelOpsError as error:
            value = {"error": error.to_json()}
        await send_json(send, 200, json.dumps(value).encode())


def metrics_text(host: Host) -> str:
    """The figures in Prometheus's text format."""
    figures = host.figures
    label = f'{{deployment="{host.settings.name}"}}'
    rows = [
        ("requests_total", "counter", "Requests that arrived.", figures.requests),
        ("failed_requests_total", "counter", "Requests that failed here.", figures.failed),
        ("tokens_total", "counter", "Tokens sent to clients.", figures.tokens),
        ("restarts_total", "counter", "Restarts of the server.", host.restarts),
        ("active_requests", "gauge", "Requests being answered or waiting.", figures.active),
        ("queued_requests", "gauge", "Requests waiting for a slot.", figures.queued),
        ("up", "gauge", "1 when a server is loaded.", int(host.server is not None)),
    ]
    lines = []
    for name, kind, text, value in rows:
        full = f"modelops_deployment_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full}{label} {value}"]
    return "\n".join(lines) + "\n"
