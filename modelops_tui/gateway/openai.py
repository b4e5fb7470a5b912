"""The OpenAI-compatible front: model names are deployments (woken when asleep) or ``rag:INDEX``."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response, StreamingResponse

from engine.api import Workbench
from engine.errors import Conflict, ModelOpsError
from engine.serving import records
from engine.serving.figures import Figures
from engine.serving.messages import Disconnected, HttpError, Receive, Scope, Send, send_error, sse
from engine.serving.relay import as_http_error, carry
from engine.serving.upstream import Upstream, UpstreamGone
from engine.types.serving import DeploymentState
from modelops_tui.sdk.workstation import in_thread

_RAG = "rag:"
_GONE = (DeploymentState.STOPPED, DeploymentState.FAILED, DeploymentState.STOPPING)
#: How long a request waits for a deployment that starts, wakes or restarts.
WAIT_S = 120.0


class Router:
    """Model name -> deployment, with a kept connection pool for each address."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._pools: dict[str, Upstream] = {}
        self.figures = Figures()

    def models(self) -> list[dict[str, Any]]:
        """Everything that can be named, in the OpenAI form."""
        names = []
        for view in self._bench.serving.list():
            if view.state not in _GONE:
                names += [view.name, *view.adapters]
        names += [f"{_RAG}{index.name}" for index in self._bench.rag.list()]
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
        for record in records.all_records(self._bench.paths):
            if model == record.name or model in record.adapters:
                return record
        raise HttpError(404, f"the model {model!r} does not exist", "invalid_request_error")

    def revive(self, record: records.Record) -> None:
        """Resume a paused deployment.

        Raises:
            HttpError: 503 when it is stopped or has failed.
        """
        view = self._bench.serving.get(record.name)
        if view.state is DeploymentState.PAUSED:
            with suppress(Conflict):
                self._bench.serving.resume(record.name)
        elif view.state in _GONE:
            raise HttpError(
                503, f"the deployment {record.name} is {view.state}: {view.reason}", "server_error"
            )


class RelayResponse(Response):
    """A response that is relayed from a deployment, chunk by chunk."""

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
        record, paths = self._record, self._router._bench.paths
        deadline = time.monotonic() + WAIT_S
        while True:
            key = records.secret(paths, record.name, "key") if record.has_key else ""
            headers = [(b"content-type", b"application/json")]
            if key:
                headers.append((b"authorization", b"Bearer " + key.encode()))
            upstream, answer = self._router.upstream(record.url), None
            try:
                answer = await upstream.request("POST", self._path, headers, self._body)
                return await carry(answer, send, receive, self._router.figures, began)
            except UpstreamGone as error:
                await asyncio.to_thread(self._router.revive, record)
                if time.monotonic() > deadline:
                    raise as_http_error(error) from error
                await asyncio.sleep(0.2)
                record = records.load(paths, record.name)
            finally:
                if answer is not None:
                    answer.close()


async def rag_answer(bench: Workbench, document: dict[str, Any]) -> Response:
    """Answer the last question of a conversation over an index, with its sources."""
    index, _, model = str(document["model"])[len(_RAG) :].partition("@")
    question = last_question(document)
    options: dict[str, Any] = {"model": model} if model else {}
    made = f"chatcmpl-{uuid.uuid4().hex}"
    head = {"id": made, "created": int(time.time()), "model": document["model"]}

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for event in in_thread(lambda: bench.rag.ask(index, question, **options)):
            yield event

    if document.get("stream"):
        return StreamingResponse(_rag_stream(events(), head), media_type="text/event-stream")
    answer = None
    async for event in events():
        answer = event.get("result", answer)
    text = answer.text if answer is not None else ""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return JSONResponse(
        {**head, "object": "chat.completion", "choices": [choice], "usage": usage,
         "sources": [hit.place for hit in answer.sources] if answer is not None else []}
    )  # fmt: skip


async def _rag_stream(
    events: AsyncIterator[dict[str, Any]], head: dict[str, Any]
) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    said = False
    try:
        async for event in events:
            if event.get("token") or event.get("type") == "token":
                said = True
                yield chunk({"content": str(event.get("token") or event.get("text") or "")})
            elif "result" in event and not said:
                yield chunk({"content": event["result"].text})
    except ModelOpsError as error:
        yield sse({"error": {"message": str(error), "type": "server_error", "code": error.code}})
        return
    yield chunk({}, "stop")
    yield sse("[DONE]")


def last_question(document: dict[str, Any]) -> str:
    """The text of the last user turn.

    Raises:
        HttpError: 400 when there is none.
    """
    for turn in reversed(document.get("messages") or []):
        if isinstance(turn, dict) and turn.get("role") == "user":
            content = turn.get("content")
            if isinstance(content, list):
                parts = [p.get("text", "") for p in content if isinstance(p, dict)]
                content = "".join(str(part) for part in parts)
            if isinstance(content, str) and content.strip():
                return content
    raise HttpError(400, "messages holds no question of a user")


def is_rag(model: str) -> bool:
    """Whether a model name means answers over an index."""
    return model.startswith(_RAG)
