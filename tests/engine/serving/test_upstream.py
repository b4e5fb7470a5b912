"""The small HTTP client and the relay against real sockets that behave badly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.serving.figures import Figures, percentiles
from engine.serving.messages import Disconnected, HttpError, json_object
from engine.serving.relay import carry
from engine.serving.upstream import Upstream, UpstreamGone

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"6\r\ndata: \r\n"


async def serve(reply: bytes, *, hold: bool = False) -> tuple[asyncio.Server, Upstream]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        if hold:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, Upstream("127.0.0.1", server.sockets[0].getsockname()[1])


async def relay(upstream: Upstream, receive: Any = None) -> tuple[bool, list[dict[str, Any]]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def silent() -> Any:
        await asyncio.sleep(600)

    answer = await upstream.request("POST", "/", [])
    try:
        return await carry(answer, send, receive or silent, Figures(), 0.0), sent
    finally:
        answer.close()


async def test_a_server_that_dies_in_a_stream_ends_it_with_an_error_event() -> None:
    server, upstream = await serve(HEAD + CHUNK)
    whole, sent = await relay(upstream)
    assert not whole
    assert sent[0]["status"] == 200
    assert b'"error"' in sent[-1]["body"]
    assert sent[-1]["more_body"] is False
    server.close()


async def test_a_server_that_dies_before_a_byte_may_be_asked_again() -> None:
    for reply in (b"", b"HTTP/1.1 200", HEAD):
        server, upstream = await serve(reply)
        with pytest.raises(UpstreamGone):
            await relay(upstream)
        server.close()


async def test_what_is_not_http_is_said_so() -> None:
    server, upstream = await serve(b"SSH-2.0-OpenSSH\r\n\r\n")
    with pytest.raises(UpstreamGone, match="not HTTP"):
        await relay(upstream)
    server.close()
    with pytest.raises(UpstreamGone):
        await Upstream("127.0.0.1", 1).request("GET", "/", [])


async def test_a_client_that_leaves_ends_the_request() -> None:
    server, upstream = await serve(HEAD + CHUNK, hold=True)

    async def leaves() -> Any:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    with pytest.raises(Disconnected):
        await asyncio.wait_for(relay(upstream, leaves), 60)
    server.close()


def test_percentiles_and_bodies() -> None:
    assert percentiles([]) == {}
    assert percentiles([n / 1000 for n in range(1, 101)]) == {"p50": 51, "p95": 96, "p99": 100}
    for bad in (b"[1]", b"{", b'{"a": NaN}', b"\xff"):
        with pytest.raises(HttpError):
            json_object(bad)


async def test_a_malformed_stream_ends_with_an_error_event() -> None:
    server, upstream = await serve(HEAD + CHUNK + b"zz\r\nno chunk at all\r\n")
    whole, sent = await relay(upstream)
    assert not whole
    assert sent[0]["status"] == 200
    assert b'"error"' in sent[-1]["body"]
    server.close()


async def test_a_client_that_stops_reading_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is ended at the server as well: the connection is closed, not kept."""
    monkeypatch.setattr("engine.serving.relay.STALLED_S", 0.05)
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + CHUNK)
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])

    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(600)

    async def silent() -> Any:
        await asyncio.sleep(600)

    answer = await upstream.request("POST", "/", [])
    with pytest.raises(Disconnected):
        await carry(answer, stuck, silent, Figures(), 0.0)
    answer.close()
    await asyncio.wait_for(left.wait(), 60)
    server.close()


async def test_a_connection_is_used_again_and_interim_answers_are_passed_over() -> None:
    connections: list[int] = []

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answers, "127.0.0.1", 0)
    upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])
    for _ in range(2):
        answer = await upstream.request("GET", "/", [])
        assert (answer.status, await answer.read()) == (200, b"ok")
        answer.close()
    assert len(connections) == 1
    with pytest.raises(UpstreamGone, match="line break"):
        await upstream.request("GET", "/", [(b"x", b"a\r\nb: c")])
    upstream.close()
    server.close()
