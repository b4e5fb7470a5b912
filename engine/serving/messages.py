"""Small ASGI pieces both fronts use: OpenAI-shaped errors, body reading, event-stream lines."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.errors import BadInput, ModelOpsError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class HttpError(ModelOpsError):
    """An answer with an error status, in the OpenAI shape."""

    def __init__(
        self, status: int, what: str, kind: str = "invalid_request_error", retry_after: int = 0
    ) -> None:
        super().__init__(what)
        self.status = status
        self.kind = kind
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON document."""
        return json.dumps(error_document(self.what, self.kind, self.status)).encode()


class Disconnected(Exception):
    """The client left before its request was whole."""


def error_document(message: str, kind: str, code: int | str | None) -> dict[str, Any]:
    """``{"error": ...}`` as OpenAI clients expect it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def send_json(
    send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole JSON answer."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *(extra or ()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: HttpError) -> None:
    """An error as an answer."""
    extra = [(b"retry-after", str(error.retry_after).encode())] if error.retry_after else []
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    await send_json(send, error.status, error.body(), extra)


def header(scope: Scope, name: bytes) -> str:
    """A request header's value, or an empty text."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


def bearer(scope: Scope) -> str:
    """The token of ``Authorization: Bearer``, or an empty text."""
    kind, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def same_secret(given: str, wanted: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body.

    Raises:
        HttpError: 413 when it is longer than ``limit``.
        Disconnected: the client left.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        if not message.get("more_body"):
            return bytes(body)


def too_large(limit: int) -> HttpError:
    """413 with the limit."""
    return HttpError(413, f"the request is larger than {limit} bytes")


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        HttpError: 400 when it is none.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError, BadInput) as error:
        raise HttpError(400, f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise HttpError(400, "the body is not a JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise BadInput(f"{name} is not JSON")


def sse(value: Any) -> bytes:
    """One event of a server-sent event stream."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
