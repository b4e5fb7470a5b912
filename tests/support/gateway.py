"""A gateway on a loopback socket, and a client that says what it heard."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from engine.api import Workbench
from engine.serving.ports import listen
from engine.serving.protocol import HttpProtocol
from modelops_tui.gateway.app import GatewaySettings, create_app
from modelops_tui.gateway.tokens import Tokens


@dataclass
class Gateway:
    port: int
    bench: Workbench
    tokens: Tokens
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, token: str = "", body: Any = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, the document (or ``{"text": ...}``) and the headers in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        value = json.loads(raw) if "json" in kind and raw else {"text": raw.decode()}
        return answer.status, value, {k.lower(): v for k, v in answer.headers.items()}


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """``app`` on a loopback port, in a thread."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="warning", ws="none", http=HttpProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def running_gateway(state: Path, settings: GatewaySettings | None = None) -> Iterator[Gateway]:
    bench = Workbench(state)
    bench.paths.ensure()
    app = create_app(bench, settings)
    with serving(app) as port:
        yield Gateway(port, bench, Tokens(bench.paths), app)
