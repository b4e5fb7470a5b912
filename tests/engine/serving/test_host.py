"""The life behind a front, with real processes that misbehave as models sometimes do."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from engine.errors import Conflict, ModelOpsError
from engine.serving.figures import Figures
from engine.serving.host import Host, HostSettings
from engine.serving.launch import Launch, free_port
from engine.serving.messages import HttpError
from engine.serving.server import ServerDied
from engine.types.serving import DeploymentState, ServedVersion

#: A server whose ``/v1/models`` answers; completions get the status, or its death (``0``).
SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, status = int(sys.argv[1]), int(sys.argv[2])
class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply(200, b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if not status:
            print("out of memory", flush=True)
            os._exit(9)
        self.reply(status, b'{"error": {"message": "no kernel for this"}}')
    def reply(self, code, body):
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def version(status: int, mark: str = "") -> ServedVersion:
    """One whose completions get ``status``; ``mark`` (zeros) tells versions apart."""
    return ServedVersion(f"{mark}{status}", f"answers {status}", 0.0)


def host(tmp_path: Path, first: int, switched: list[str] | None = None) -> Host:
    def prepare(wanted: ServedVersion) -> Launch:
        port = free_port()
        argv = (sys.executable, "-I", "-S", "-c", SERVER, str(port), wanted.model)
        return Launch(argv, port, "k", start_timeout_s=60)

    told = switched if switched is not None else []
    return Host(
        HostSettings("m", max_queue=2),
        version(first),
        prepare,
        Figures(),
        tmp_path / "log",
        lambda now: told.append(now.model),
    )


def test_a_version_that_fails_its_check_is_rolled_back(tmp_path: Path) -> None:
    switched: list[str] = []

    async def story() -> None:
        life = host(tmp_path, 200, switched)
        server = await life.acquire()
        life.release(server)
        with pytest.raises(Conflict, match="no kernel for this") as refused:
            await life.switch(version(500))
        assert "goes on" in refused.value.hint
        with pytest.raises(ServerDied, match="ended at its first request"):
            await life.switch(version(0))
        # the old one answers still, and is the very same process
        assert (life.server, life.state, life.version) == (
            server,
            DeploymentState.READY,
            version(200),
        )
        assert server.exit_status() is None
        await life.switch(version(200, "0"))
        assert life.version == version(200, "0")
        await life.close(5)
        assert server.exit_status() is not None

    asyncio.run(story())
    assert switched == ["0200"]


def test_an_old_version_finishes_what_it_began(tmp_path: Path) -> None:
    async def story() -> None:
        life = host(tmp_path, 200)
        old = await life.acquire()
        await life.switch(version(200, "0"))
        await asyncio.sleep(0.1)
        assert old.exit_status() is None
        life.release(old)
        deadline = asyncio.get_running_loop().time() + 120
        while old.exit_status() is None:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        await life.close(5)

    asyncio.run(story())


def test_a_full_queue_and_a_model_without_room_are_refused(tmp_path: Path) -> None:
    def no_room(_version: ServedVersion) -> None:
        raise Conflict("there is no room")

    async def story() -> None:
        life = host(tmp_path, 200)
        life._has_room = no_room
        held = await life.acquire()
        waiting = [asyncio.create_task(life.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HttpError, match="too many requests wait") as refused:
            await life.acquire()
        assert (refused.value.status, refused.value.retry_after) == (429, 1)
        with pytest.raises(ModelOpsError, match="no room"):
            await life.switch(version(200, "0"))
        life.release(held)
        life.release(await waiting[0])
        life.release(await waiting[1])
        await life.close(5)

    asyncio.run(story())
