"""How the fronts read requests: uvicorn's httptools protocol, with a limit of what a head may hold.

llhttp has none of its own, so that a client could send headers for ever. Import this module only
where a server is made: it imports uvicorn.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of a request line and its headers.
MAX_HEAD = 64 << 10
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class HttpProtocol(HttpToolsProtocol):
    """Give it to ``uvicorn.Config(http=...)``."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._in_head = True
        self._head = 0
        self._completed = False

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._completed = False
        super().data_received(data)
        # what ended a message was its body, not the next one's head
        if self._in_head and not self._completed:
            self._head += len(data)
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # between two requests of a connection nothing has come yet
        self._in_head, self._head, self._completed = True, 0, True
