"""A model that is not there yet: who asks hears its state, soon and with the reason."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.api.system import System
from engine.types.system import EngineStatus
from modelops_tui.gateway.app import GatewaySettings
from tests.support.gateway import Gateway, running_gateway

ASK = {"model": "waits", "prompt": "x"}


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A deployment that waits for an engine."""
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    settings = GatewaySettings(requests_per_minute=0, start_engine=False, wait_s=0.5)
    with running_gateway(tmp_path / "state", settings) as made:
        made.bench.serving.start("smollm2", name="waits", engine=False)
        yield made


def test_without_an_engine_nobody_waits(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = gateway.tokens.add("t", ["run"])
    monkeypatch.setattr(gateway.app.state.router, "wait_s", 600.0)
    status, said, headers = gateway.ask("POST", "/v1/completions", token, ASK)
    assert status == 503
    assert said["error"]["message"] == "the deployment waits is waiting: no engine runs"
    assert headers["retry-after"] == "5"


def test_who_has_waited_long_enough_hears_the_state(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = gateway.tokens.add("t", ["run"])
    monkeypatch.setattr(System, "engine_status", lambda _self: EngineStatus(True))
    status, said, _ = gateway.ask("POST", "/v1/completions", token, ASK)
    assert status == 503
    assert said["error"]["message"].startswith("the deployment waits is waiting")


def test_who_leaves_is_not_waited_for(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = gateway.tokens.add("t", ["run"])
    monkeypatch.setattr(System, "engine_status", lambda _self: EngineStatus(True))
    router = gateway.app.state.router
    monkeypatch.setattr(router, "wait_s", 600.0)
    body = json.dumps(ASK).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as asking:
        asking.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until = time.monotonic() + 60
        while router.figures.active == 0:
            assert time.monotonic() < until
            time.sleep(0.01)
    while router.figures.active:
        assert time.monotonic() < until
        time.sleep(0.01)
