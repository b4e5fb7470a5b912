"""The gateway over a real socket: tokens, scopes, limits, errors, its own OpenAPI."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from engine.api import Workbench
from engine.errors import BadInput
from engine.serving.ports import listen
from modelops_tui.gateway.app import GatewaySettings, create_app
from modelops_tui.gateway.tokens import Tokens


@dataclass
class Gateway:
    port: int
    tokens: Tokens

    def ask(
        self, method: str, path: str, token: str = "", body: Any = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        value = json.loads(raw) if "json" in kind else {"text": raw.decode()}
        return answer.status, value, dict(answer.headers)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    bench = Workbench(tmp_path / "state")
    bench.paths.ensure()
    listening = listen("127.0.0.1", 0)
    app = create_app(bench, GatewaySettings(max_body=2000, requests_per_minute=20))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", http="h11"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Gateway(listening.getsockname()[1], Tokens(bench.paths))
    server.should_exit = True
    thread.join(10)


def test_without_a_token_only_health_answers(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/health")[0] == 200
    for path in ("/api/jobs", "/v1/models", "/metrics", "/api/deployments"):
        status, value, headers = gateway.ask("GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert value["error"]["type"] == "authentication_error"
    assert gateway.ask("GET", "/api/jobs", "mo_wrong")[0] == 401


def test_scopes_are_kept_apart(gateway: Gateway) -> None:
    read, _ = gateway.tokens.add("reader", ["read"])
    run, _ = gateway.tokens.add("runner", ["run"])
    body = {"recipe": 'kind = "nonsense"'}
    assert gateway.ask("GET", "/api/jobs", read)[0] == 200
    assert gateway.ask("POST", "/api/jobs", read, body)[0] == 403
    status, value, _ = gateway.ask("POST", "/api/jobs", run, body)
    assert status == 422
    assert "nonsense" in json.dumps(value["error"]["diagnostics"])
    promotion = {"ref": "a@1", "stage": "prod"}
    assert gateway.ask("POST", "/api/promotions", run, promotion)[0] == 403


def test_a_revoked_or_expired_token_is_refused_at_once(gateway: Gateway) -> None:
    secret, view = gateway.tokens.add("gone", ["read"])
    brief, _ = gateway.tokens.add("brief", ["read"], days=1e-9)
    assert gateway.ask("GET", "/api/jobs", secret)[0] == 200
    gateway.tokens.revoke(view.id)
    assert gateway.ask("GET", "/api/jobs", secret)[0] == 401
    assert gateway.ask("GET", "/api/jobs", brief)[0] == 401


def test_a_token_is_kept_as_a_hash_only(gateway: Gateway, tmp_path: Path) -> None:
    secret, _ = gateway.tokens.add("me", ["admin"])
    file = tmp_path / "state" / "gateway" / "tokens.json"
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput, match="known scopes"):
        gateway.tokens.add("me", ["root"])


def test_size_rate_and_unknown_things(gateway: Gateway) -> None:
    token, _ = gateway.tokens.add("me", ["run"])
    assert gateway.ask("POST", "/api/jobs", token, {"recipe": "x" * 3000})[0] == 413
    assert gateway.ask("GET", "/api/jobs/none", token)[0] == 404
    assert gateway.ask("GET", "/api/jobs/..%2f..%2fetc", token)[0] == 404
    status, value, _ = gateway.ask("POST", "/v1/chat/completions", token, {"model": "nope"})
    assert (status, value["error"]["code"]) == (404, 404)
    assert gateway.ask("POST", "/v1/chat/completions", token, b"{not json")[0] in (400, 422)
    statuses = [gateway.ask("GET", "/v1/models", token)[0] for _ in range(25)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_openapi_names_every_route_with_its_examples(gateway: Gateway) -> None:
    status, value, _ = gateway.ask("GET", "/openapi.json")
    assert status == 200
    assert value["openapi"].startswith("3.1")
    body = value["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert "messages" in body["content"]["application/json"]["schema"]["examples"][0]
    for operations in value["paths"].values():
        for operation in operations.values():
            assert operation["operationId"]
