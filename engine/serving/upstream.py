"""A small asyncio HTTP/1.1 client for servers on this machine: pooled, streaming, nothing else.

httptools (llhttp in C, which uvicorn uses as well) does the protocol; bytes of a body are handed on
as they arrive, everything that one read brought in one piece.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

Headers = list[tuple[bytes, bytes]]

#: Connections kept open for the next request.
KEPT = 32
#: Above so many bytes that nobody has taken, a server is left waiting.
_HELD = 1 << 18


class UpstreamGone(ConnectionError):
    """The server refused the connection, or closed it in the middle."""


class _Connection(asyncio.Protocol):
    """One connection and the answer that comes over it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: str = ""
        """Why it is over; empty while it lives."""
        self.begin()

    def begin(self) -> None:
        """Be ready for the next answer."""
        import httptools

        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: Headers = []
        self.finished = False
        self.keep = False
        self._framed = False
        self._held: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    # -- asyncio ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        import httptools

        if self.finished:
            self._over("the server sent more than it was asked for")
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._over(f"not HTTP: {error}")
            return
        if self._size > _HELD and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._over("the server closed the connection in the middle of an answer")

    def connection_lost(self, error: Exception | None) -> None:
        self._over(str(error) if error else "the connection was closed")

    # -- httptools --------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._framed |= name in (b"content-length", b"transfer-encoding")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            # an interim answer: the real one follows
            self.headers = []
            return
        self.status = status

    def on_body(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self.finished = True
            self.keep = self.parser.should_keep_alive()

    # -- for the request --------------------------------------------------------------------------

    async def moved(self) -> None:
        """Wait until something happened."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Everything that arrived."""
        held, self._held, self._size = self._held, [], 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return held[0] if len(held) == 1 else b"".join(held)

    def close(self) -> None:
        """End it now."""
        self._over("it was closed here")
        if self.transport is not None:
            with suppress(OSError, RuntimeError):
                self.transport.abort()

    def _over(self, why: str) -> None:
        if not self.lost:
            if self.status and not self._framed:
                # a body without a length ends with its connection
                self.finished = True
            self.lost = why
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass
class Answer:
    """A response whose body has not been read yet. Close it in every case."""

    status: int
    headers: Headers
    _connection: _Connection
    _pool: Upstream
    aborted: bool = False
    _given_back: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            UpstreamGone: the server closed before the end.
        """
        connection = self._connection
        while True:
            data = connection.take()
            if data:
                yield data
            elif connection.finished:
                return
            elif connection.lost:
                raise UpstreamGone(connection.lost)
            else:
                await connection.moved()

    async def read(self, limit: int = 64 << 20) -> bytes:
        """The whole body, at most ``limit`` bytes of it."""
        parts = bytearray()
        async for chunk in self.chunks():
            parts += chunk
            if len(parts) > limit:
                raise UpstreamGone(f"an answer of more than {limit} bytes")
        return bytes(parts)

    def abort(self) -> None:
        """End it in the middle: who reads it hears ``UpstreamGone``, the server that we left."""
        if not self._given_back:
            self.aborted = True
            self._connection.close()

    def close(self) -> None:
        """Give the connection back, or end it where the body was not read to its end."""
        if not self._given_back:
            self._given_back = True
            self._pool.give_back(self._connection)


@dataclass
class Upstream:
    """One server: ``host``, ``port`` and, for TLS, a context."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    _idle: list[_Connection] = field(default_factory=list)

    async def request(
        self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], body: bytes = b""
    ) -> Answer:
        """Send a request and wait for the head of its answer.

        A kept connection that turns out to be closed is replaced: nothing was answered on it.

        Raises:
            UpstreamGone: nobody listens, or the connection ended before an answer began.
        """
        headers = tuple(headers)
        while self._idle:
            connection = self._idle.pop()
            if connection.lost:
                continue
            connection.begin()
            with suppress(UpstreamGone):
                return await self._exchange(connection, method, path, headers, body)
        return await self._exchange(await self._connect(), method, path, headers, body)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                _Connection, self.host, self.port, ssl=self.tls
            )
        except OSError as error:
            raise UpstreamGone(str(error)) from error
        return connection

    async def _exchange(
        self,
        connection: _Connection,
        method: str,
        path: str,
        headers: tuple[tuple[bytes, bytes], ...],
        body: bytes,
    ) -> Answer:
        lines = [f"{method} {path} HTTP/1.1".encode(), f"host: {self.host}:{self.port}".encode()]
        lines += [name + b": " + value for name, value in headers]
        lines.append(f"content-length: {len(body)}".encode())
        if any(b"\r" in line or b"\n" in line for line in lines):
            connection.close()
            raise UpstreamGone("a header with a line break is never sent")
        try:
            if connection.transport is None or connection.lost:
                raise UpstreamGone(connection.lost or "the connection was closed")
            connection.transport.write(b"\r\n".join([*lines, b"", body]))
            while not connection.status and not connection.lost:
                await connection.moved()
        except BaseException:
            connection.close()
            raise
        if not connection.status:
            connection.close()
            raise UpstreamGone(connection.lost or "closed before it answered")
        return Answer(connection.status, connection.headers, connection, self)

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request, or close it."""
        whole = connection.finished and connection.keep and not connection.lost
        if whole and len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """End the kept connections."""
        while self._idle:
            self._idle.pop().close()
