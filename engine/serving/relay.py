"""Carrying one request to a server and its answer back, chunk by chunk, with a clean end always."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress

from engine.serving.figures import Figures
from engine.serving.messages import (
    Disconnected,
    HttpError,
    Receive,
    Send,
    error_document,
    sse,
)
from engine.serving.upstream import Answer, Headers, UpstreamGone

#: A client that takes nothing for so long is left.
STALLED_S = 30.0
#: Headers of an answer that are passed on; the rest belongs to the inner connection.
_PASSED = {b"content-type", b"retry-after", b"openai-processing-ms"}


def passed_headers(answer: Answer, *, stream: bool) -> Headers:
    """The head of the outer answer."""
    headers = [(name, value) for name, value in answer.headers if name in _PASSED]
    if stream:
        headers += [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    return headers


def is_stream(answer: Answer) -> bool:
    """Whether the answer is an event stream."""
    kind = next((v for n, v in answer.headers if n == b"content-type"), b"")
    return kind.startswith(b"text/event-stream")


async def carry(
    answer: Answer,
    send: Send,
    receive: Receive,
    figures: Figures,
    began: float,
    change: Callable[[bytes], bytes] | None = None,
) -> bool:
    """Send ``answer`` on, a whole one as ``change`` makes it; returns whether it was whole.

    A server that dies in the middle of a stream ends it with an ``error`` event; a client that
    leaves, or takes nothing for ``STALLED_S``, ends the request upstream.

    Raises:
        Disconnected: the client left.
        UpstreamGone: the server died before a byte was sent: the caller may try again.
    """
    leaving = asyncio.ensure_future(left(receive))
    # ends the wait for the next piece: cheaper than to wait for both at every piece
    leaving.add_done_callback(lambda task: None if task.cancelled() else answer.abort())
    try:
        if not is_stream(answer):
            return await _carry_whole(answer, send, figures, began, change)
        return await _carry_stream(answer, send, figures, began)
    except UpstreamGone:
        if leaving.done():
            raise Disconnected from None
        raise
    finally:
        leaving.cancel()


async def _carry_stream(answer: Answer, send: Send, figures: Figures, began: float) -> bool:
    started = False
    try:
        async for chunk in answer.chunks():
            if not started:
                head = {"status": answer.status, "headers": passed_headers(answer, stream=True)}
                await _send(send, {"type": "http.response.start", **head})
                figures.first_byte.append(time.monotonic() - began)
                started = True
            await _send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
            figures.produced(chunk.count(b'"content":') + chunk.count(b'"text":'))
    except UpstreamGone:
        if not started or answer.aborted:
            raise
        note = error_document("the server ended in the middle of the answer", "server_error", 502)
        await _send(send, {"type": "http.response.body", "body": sse(note), "more_body": False})
        return False
    await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})
    return True


async def _carry_whole(
    answer: Answer,
    send: Send,
    figures: Figures,
    began: float,
    change: Callable[[bytes], bytes] | None,
) -> bool:
    body = await answer.read()
    if change is not None and answer.status == 200:
        body = change(body)
    figures.first_byte.append(time.monotonic() - began)
    headers = [*passed_headers(answer, stream=False), (b"content-length", str(len(body)).encode())]
    await _send(send, {"type": "http.response.start", "status": answer.status, "headers": headers})
    await _send(send, {"type": "http.response.body", "body": body})
    with suppress(ValueError, AttributeError, TypeError):
        figures.produced(int(json.loads(body).get("usage", {}).get("completion_tokens") or 0))
    return answer.status < 500


async def left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def _send(send: Send, message: dict[str, object]) -> None:
    try:
        # not wait_for: that would make a task of every piece
        async with asyncio.timeout(STALLED_S):
            await send(message)
    except TimeoutError as error:
        raise Disconnected from error


def as_http_error(error: UpstreamGone) -> HttpError:
    """A server that is gone, as the client hears it."""
    return HttpError(503, f"the server is gone: {error}", "server_error", 1)
