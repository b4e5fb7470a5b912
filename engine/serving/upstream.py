"""A small asyncio HTTP/1.1 client for servers on this machine: pooled, streaming, nothing else.

h11 (which uvicorn needs anyway) does the protocol.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Headers = list[tuple[bytes, bytes]]

#: Connections kept open for the next request.
KEPT = 32
_CHUNK = 1 << 16


class UpstreamGone(ConnectionError):
    """The server refused the connection, or closed it in the middle."""


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: Any
    """h11's connection."""
    used: bool = False

    async def event(self) -> Any:
        """The next protocol event."""
        import h11

        while True:
            try:
                event = self.state.next_event()
            except h11.RemoteProtocolError as error:
                raise UpstreamGone(f"not HTTP: {error}") from error
            if event is not h11.NEED_DATA:
                return event
            try:
                data = await self.reader.read(_CHUNK)
            except OSError as error:
                raise UpstreamGone(str(error)) from error
            self.state.receive_data(data)

    def close(self) -> None:
        with suppress(OSError, RuntimeError):
            self.writer.close()


@dataclass
class Answer:
    """A response whose body has not been read yet. Close it in every case."""

    status: int
    headers: Headers
    _connection: _Connection
    _pool: Upstream
    _finished: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            UpstreamGone: the server closed before the end.
        """
        import h11

        while True:
            event = await self._connection.event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._finished = True
                return
            else:
                raise UpstreamGone("the server closed the connection in the middle of an answer")

    async def read(self, limit: int = 64 << 20) -> bytes:
        """The whole body, at most ``limit`` bytes of it."""
        parts = bytearray()
        async for chunk in self.chunks():
            parts += chunk
            if len(parts) > limit:
                raise UpstreamGone(f"an answer of more than {limit} bytes")
        return bytes(parts)

    def close(self) -> None:
        """Give the connection back, or end it where the body was not read to its end."""
        self._pool.give_back(self._connection, reusable=self._finished)
        self._finished = False


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

        A kept connection that turns out to be closed is replaced once: nothing was answered on it.

        Raises:
            UpstreamGone: nobody listens, or the connection ended before an answer began.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.reader.at_eof() or connection.writer.is_closing():
                connection.close()
                continue
            with suppress(UpstreamGone):
                return await self._exchange(connection, method, path, headers, body)
        return await self._exchange(await self._connect(), method, path, headers, body)

    async def _connect(self) -> _Connection:
        import h11

        try:
            reader, writer = await asyncio.open_connection(
                self.host, self.port, ssl=self.tls, limit=_CHUNK
            )
        except OSError as error:
            raise UpstreamGone(str(error)) from error
        return _Connection(reader, writer, h11.Connection(h11.CLIENT))

    async def _exchange(
        self,
        connection: _Connection,
        method: str,
        path: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
    ) -> Answer:
        import h11

        host = f"{self.host}:{self.port}".encode()
        head = [(b"host", host), *headers, (b"content-length", str(len(body)).encode())]
        send = connection.state.send
        try:
            request = h11.Request(method=method, target=path, headers=head)
            data = send(request) + send(h11.Data(data=body)) + send(h11.EndOfMessage())
            connection.writer.write(data)
            await connection.writer.drain()
            event = await connection.event()
            while isinstance(event, h11.InformationalResponse):
                event = await connection.event()
        except (OSError, asyncio.CancelledError) as error:
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise UpstreamGone(str(error)) from error
        if not isinstance(event, h11.Response):
            connection.close()
            raise UpstreamGone("the server closed the connection before it answered")
        raw = [(bytes(name), bytes(value)) for name, value in event.headers]
        return Answer(event.status_code, raw, connection, self)

    def give_back(self, connection: _Connection, *, reusable: bool) -> None:
        """Keep a connection for the next request, or close it."""
        import h11

        state = connection.state
        if reusable and state.our_state is h11.DONE and state.their_state is h11.DONE:
            state.start_next_cycle()
            if len(self._idle) < KEPT and not connection.writer.is_closing():
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """End the kept connections."""
        while self._idle:
            self._idle.pop().close()
