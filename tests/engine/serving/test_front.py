"""A deployment's front over real sockets, before a server that does what servers should not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvicorn

from engine.serving import relay
from engine.serving.figures import Figures
from engine.serving.front import Front, FrontSettings
from engine.serving.host import Host, HostSettings
from engine.serving.launch import Launch, free_port
from engine.serving.ports import listen
from engine.types.serving import ServedVersion

#: Answers by the prompt: ``endless`` text, ``dies`` in the middle, ``garbage`` instead of HTTP.
SERVER = r"""
import json, os, socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        line, size = self.rfile.readline(), 0
        while (head := self.rfile.readline().strip()):
            if head.lower().startswith(b"content-length:"):
                size = int(head.split(b":")[1])
        body = self.rfile.read(size)
        say = self.wfile.write
        if line.startswith(b"GET"):
            return say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        prompt = json.loads(body).get("prompt")
        if prompt == "garbage":
            return say(b"\0\1\2 this is no HTTP\r\n\r\n")
        if prompt == "half":
            return say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                       b"content-length: 500\r\n\r\n{")
        say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n")
        def event(data):
            data = b"data: " + data + b"\n\n"
            say(b"%x\r\n%s\r\n" % (len(data), data))
        if prompt == "endless":
            try:
                while True:
                    event(b"x" * 60000)
            except OSError:
                return
        event(b'{"choices": [{"text": "one"}]}')
        if prompt == "dies":
            self.wfile.flush()
            os._exit(9)
        event(b"[DONE]")
        say(b"0\r\n\r\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""

Ask = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def front(tmp_path: Path) -> AsyncIterator[tuple[Host, int]]:
    """A running front with the key ``k`` and the admin's ``a``; its host and port."""

    def prepare(_version: ServedVersion) -> Launch:
        port = free_port()
        argv = (sys.executable, "-I", "-S", "-c", SERVER, str(port))
        return Launch(argv, port, "inner", start_timeout_s=60)

    host = Host(
        HostSettings("m"), ServedVersion("m", "m", 0.0), prepare, Figures(), tmp_path / "log",
        lambda _version: None,
    )  # fmt: skip
    app = Front(host, FrontSettings("k", "a", max_body=2000), lambda: ["m"], {})
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", ws="none", http="h11", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield host, listening.getsockname()[1]
    finally:
        server.should_exit = True
        await host.close(0)
        await asyncio.wait_for(task, 60)


def request(body: object, path: str = "/v1/completions", key: str = "k") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    return f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def ask(port: int, raw: bytes) -> tuple[int, bytes]:
    """Status, and everything after it, of one raw request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 120)
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1]), answer


def test_a_server_that_breaks_off_or_talks_nonsense_ends_cleanly(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as (host, port):
            status, text = await ask(port, request({"prompt": "fine", "stream": True}))
            assert (status, b"[DONE]" in text) == (200, True)
            status, text = await ask(port, request({"prompt": "garbage"}))
            assert status == 503
            assert b"retry-after" in text.lower()
            assert b'"error"' in text
            assert (await ask(port, request({"prompt": "half"})))[0] == 503
            # it dies in the middle of a stream: an event says so, and the answer still ends as HTTP
            status, text = await ask(port, request({"prompt": "dies", "stream": True}))
            assert status == 200
            assert b'"one"' in text
            assert b'data: {"error"' in text
            assert text.endswith(b"0\r\n\r\n")
            # and the next one is answered by the one that was started again
            assert (await ask(port, request({"prompt": "fine", "stream": True})))[0] == 200
            assert host.restarts == 1
            assert host.figures.active == 0

    asyncio.run(story())


def test_a_client_that_stops_reading_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "STALLED_S", 0.5)

    async def story() -> None:
        async with front(tmp_path) as (host, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(request({"prompt": "endless", "stream": True}))
            deadline = asyncio.get_running_loop().time() + 60
            while not host.figures.active:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            # it holds the only slot until it is left: then the next one gets an answer
            assert (await ask(port, request({"prompt": "fine", "stream": True})))[0] == 200
            assert host.figures.active == 0
            writer.transport.abort()

    asyncio.run(story())


def test_bad_requests_and_path_tricks_reach_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with front(tmp_path) as (host, port):
            for body, wanted in (
                (b"{not json", 400),
                (b"[1]", 400),
                (b"\xff\xfe", 400),
                (b'{"x": NaN}', 400),
                ({"prompt": "x" * 3000}, 413),
                ({"model": "other", "prompt": "x"}, 404),
            ):
                assert (await ask(port, request(body)))[0] == wanted, body
            for key in ("", "K", "k" * 5000, "a"):
                assert (await ask(port, request({"prompt": "x"}, key=key)))[0] == 401
            for path in ("/-/switch", "/-/../v1/completions", "/-/%2e%2e/health"):
                assert (await ask(port, request({"ref": "x"}, path)))[0] == 401
            for path in ("/v1/../metrics", "/v1/completions/", "//v1/completions", "/etc/passwd"):
                assert (await ask(port, request({}, path)))[0] == 404, path
            # a header that ends the request's line early, and one that is no HTTP at all
            for raw in (b"\0\0\0\r\n\r\n", b"POST /v1/completions\r\n\r\n", b"G" * 100_000):
                with suppress(ConnectionError):
                    assert (await ask(port, raw))[0] == 400
            assert host.server is None or host.figures.tokens == 0
            assert (await ask(port, request({"prompt": "fine", "stream": True})))[0] == 200

    asyncio.run(story())
