"""The size limit of every request body, as ASGI middleware: counted as it arrives."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from engine.serving.messages import (
    Message,
    Receive,
    Scope,
    Send,
    header,
    send_error,
    too_large,
)


class Limits:
    """Refuses bodies above ``max_body`` bytes with 413, whether or not a length was declared."""

    def __init__(self, app: object, max_body: int) -> None:
        self._app = app
        self._max = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while it is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # type: ignore[operator]
            return
        declared = header(scope, b"content-length")
        if declared.isdigit() and int(declared) > self._max:
            await send_error(send, too_large(self._max))
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"") or b"")
            if seen > self._max:
                # of this class: FastAPI would turn any other into "error parsing the body"
                raise HTTPException(413, too_large(self._max).what)
            return message

        await self._app(scope, counted, send)  # type: ignore[operator]
