"""How requests are read: what counts as a head, and what as a body."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from engine.serving.protocol import MAX_HEAD, HttpProtocol


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    text = str(length).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(count, http=HttpProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.mark.parametrize("length", [10, MAX_HEAD + 1, 3 * MAX_HEAD])
def test_a_large_body_in_one_piece_is_no_head(port: int, length: int) -> None:
    """It is read at once with the end of its message; another request follows."""
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    ends = f"\r\n\r\n{length}".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        for _ in range(3):
            raw.sendall(head.encode() + b"a" * length)
            heard = b""
            while not heard.endswith(ends):
                piece = raw.recv(65536)
                assert piece, heard
                heard += piece
            assert heard.startswith(b"HTTP/1.1 200 ")
