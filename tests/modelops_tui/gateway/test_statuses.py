"""The statuses that the OpenAPI document lists are those that are returned."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine.serving.server
import engine.store.connection
import engine.worker.context
from engine.errors import ModelOpsError
from engine.serving.messages import HttpError
from modelops_tui.gateway.app import GatewaySettings
from modelops_tui.gateway.errors import status_of
from modelops_tui.gateway.place import REFUSALS
from tests.support.gateway import Gateway, running_gateway


def every(kind: type[ModelOpsError]) -> Iterator[type[ModelOpsError]]:
    for each in kind.__subclasses__():
        yield each
        yield from every(each)


def test_every_known_error_has_a_documented_status_of_its_own() -> None:
    undocumented = {}
    for kind in every(ModelOpsError):
        module = kind.__module__
        # a step's stop stays in its worker
        if issubclass(kind, HttpError) or kind.code == "stopped" or module.startswith("tests"):
            continue
        error = kind.__new__(kind)
        if status_of(error) not in REFUSALS or status_of(error) == 500:
            undocumented[kind.__name__] = status_of(error)
    assert undocumented == {}
    assert status_of(engine.store.connection.StoreBusy("x")) == 503
    assert status_of(engine.serving.server.ServerDied("x")) == 502
    assert status_of(ModelOpsError("x")) == 500


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    settings = GatewaySettings(max_body=1 << 16, requests_per_minute=40, start_engine=False)
    with running_gateway(tmp_path / "state", settings) as made:
        yield made


def test_each_status_is_heard(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, _ = gateway.tokens.add("admin", ["admin"])
    reader, _ = gateway.tokens.add("reader", ["read"])
    recipe = {"recipe": 'kind = "rag"\nfolder = "/nowhere"\nindex = "x"\n'}
    asked = {
        400: ("POST", "/v1/completions", admin, b"no JSON"),
        401: ("GET", "/api/jobs", "wrong", None),
        403: ("POST", "/api/jobs", reader, recipe),
        404: ("GET", "/api/jobs/77", admin, None),
        405: ("PUT", "/api/jobs", admin, {}),
        413: ("POST", "/api/jobs", admin, {"recipe": "x" * (1 << 17)}),
        422: ("POST", "/api/jobs", admin, recipe),
    }
    for status, (method, path, token, body) in asked.items():
        heard, document, headers = gateway.ask(method, path, token, body)
        assert heard == status, (status, document)
        assert document["error"]["message"], document
        assert (status == 401) == ("www-authenticate" in headers)
    # a full disk
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", str(1 << 40))
    house = {"recipe": 'kind = "evaluate"\nmodel = "smollm2"\n'}
    assert gateway.ask("POST", "/api/jobs", admin, house)[0] == 507
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    # twice the same ending
    status, job, _ = gateway.ask("POST", "/api/jobs", admin, house)
    assert status == 201, job
    gateway.ask("POST", f"/api/jobs/{job['id']}/cancel", admin)
    assert gateway.ask("POST", f"/api/jobs/{job['id']}/cancel", admin)[0] == 409
    while (answer := gateway.ask("GET", "/api/jobs", reader))[0] == 200:
        pass
    assert answer[0] == 429
    assert int(answer[2]["retry-after"]) > 0


def test_what_nobody_foresaw_is_told_without_a_traceback(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, _ = gateway.tokens.add("admin", ["admin"])

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(type(gateway.bench.jobs), "list", broken)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request("GET", "/api/jobs", headers={"Authorization": f"Bearer {admin}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 500
    assert "secret" not in text
    assert json.loads(text)["error"]["type"] == "server_error"
