"""The gateway over a real socket: tokens, scopes, limits, errors, its own OpenAPI."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from engine.errors import BadInput
from modelops_tui.gateway.exposition import _labels
from tests.support.gateway import Gateway


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


def test_a_token_is_kept_as_a_hash_only(gateway: Gateway) -> None:
    secret, _ = gateway.tokens.add("me", ["admin"])
    file = gateway.bench.paths.root / "gateway" / "tokens.json"
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput, match="known scopes"):
        gateway.tokens.add("me", ["root"])


def test_sizes_and_unknown_things(gateway: Gateway) -> None:
    token, _ = gateway.tokens.add("me", ["run"])
    assert gateway.ask("POST", "/api/jobs", token, {"recipe": "x" * 30_000})[0] == 413
    assert gateway.ask("GET", "/api/jobs/999999", token)[0] == 404
    chat = {"model": "nope", "messages": [{"role": "user", "content": "hi"}]}
    status, value, _ = gateway.ask("POST", "/v1/chat/completions", token, chat)
    assert (status, value["error"]["code"]) == (404, 404)
    assert gateway.ask("POST", "/v1/chat/completions", token, b"{not json")[0] == 400
    assert gateway.ask("POST", "/v1/chat/completions", token, {"model": "nope"})[0] == 400
    assert gateway.ask("POST", "/v1/chat/completions", token, b"[" * 15_000)[0] == 400


def test_a_body_without_a_length_is_counted_as_it_comes(gateway: Gateway) -> None:
    token, _ = gateway.tokens.add("me", ["run"])
    for path in ("/api/jobs", "/v1/chat/completions"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as raw:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            raw.sendall(head.encode() + b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
            raw.sendall(b"4000\r\n" + b"a" * 0x4000 + b"\r\n0\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_head_without_end_is_refused(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        heard = b""
        # it is cut off while it still sends: either side may see the reset first
        with contextlib.suppress(OSError):
            raw.sendall(b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(80)))
        with contextlib.suppress(OSError):
            while piece := raw.recv(4096):
                heard += piece
        assert heard.startswith(b"HTTP/1.1 431 ")
    assert gateway.ask("GET", "/health")[0] == 200


def test_bounds_stand_in_the_description(gateway: Gateway) -> None:
    schemas = gateway.app.openapi()["components"]["schemas"]
    for model, key, least, most in [
        ("Search", "k", 1, 200),
        ("Question", "k", 0, 50),
        ("Priority", "priority", -1000, 1000),
        ("Submission", "priority", -1000, 1000),
        ("NewDeployment", "context", 64, 1 << 20),
        ("Sql", "limit", 1, 10_000),
    ]:
        value = schemas[model]["properties"][key]
        assert (value["minimum"], value["maximum"]) == (least, most), (model, key)


def test_a_token_has_its_share_of_a_minute(gateway: Gateway) -> None:
    token, _ = gateway.tokens.add("busy", ["read"])
    other, _ = gateway.tokens.add("calm", ["read"])
    statuses = [gateway.ask("GET", "/v1/models", token)[0] for _ in range(201)]
    assert statuses == [200] * 200 + [429]
    headers = gateway.ask("GET", "/v1/models", token)[2]
    assert 1 <= int(headers["retry-after"]) <= 61
    assert gateway.ask("GET", "/v1/models", other)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/..%2f..%2fetc",
        "/api/recipes/..%2f..%2fpyproject",
        "/api/recipes/%2fetc%2fpasswd",
        "/api/recipes/..",
        "/api/datasets/..%2fregistry",
        "/api/deployments/..%2f..",
        "/api/indexes/..",
        "/api/artifacts/a%00b",
        "/api/artifacts/support-bot/files/../../../gateway/tokens.json",
        "/api/artifacts/support-bot/files/..%2f..%2fgateway%2ftokens.json",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
    ],
)
def test_path_tricks_lead_nowhere(gateway: Gateway, path: str) -> None:
    token, _ = gateway.tokens.add("me", ["admin"])
    status, value, _ = gateway.ask("GET", path, token)
    assert status in (404, 422)
    assert "root:" not in json.dumps(value)


def test_openapi_names_every_route_with_its_examples(gateway: Gateway) -> None:
    status, value, _ = gateway.ask("GET", "/openapi.json")
    assert status == 200
    assert value["openapi"].startswith("3.1")
    chat = value["paths"]["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Chat"}
    assert "messages" in value["components"]["schemas"]["Chat"]["examples"][0]
    for path, operations in value["paths"].items():
        for operation in operations.values():
            assert operation["operationId"]
            assert operation.get("description"), path
            if path != "/health":
                assert operation["security"] == [{"HTTPBearer": []}], path
            for media in operation.get("requestBody", {}).get("content", {}).values():
                name = media["schema"]["$ref"].rpartition("/")[2]
                assert value["components"]["schemas"][name]["examples"], path


def test_every_subject_of_the_workbench_has_routes(gateway: Gateway) -> None:
    document = gateway.app.openapi()
    subjects = {
        tag for path in document["paths"].values() for o in path.values() for tag in o["tags"]
    }
    assert subjects >= {
        *("jobs", "recipes", "data", "registry", "remotes", "rag", "deployments", "system"),
        "openai",
    }


def test_no_schema_hides_another_of_its_name(gateway: Gateway) -> None:
    """FastAPI's models and the schemas of the OpenAI front stand in one list."""
    from fastapi import FastAPI

    from modelops_tui.gateway import openai
    from modelops_tui.gateway.app import create_app

    own = set(FastAPI.openapi(create_app(gateway.bench))["components"]["schemas"])
    assert own
    assert own & set(openai.schemas()) == set()


def test_metrics_tell_of_jobs_deployments_and_devices(gateway: Gateway) -> None:
    token, _ = gateway.tokens.add("watcher", ["read"])
    before = sample(gateway, token, 'modelops_jobs{state="queued"}')
    runner, _ = gateway.tokens.add("runner", ["run"])
    recipe = 'kind = "rag"\nfolder = "docs"\nindex = "metrics"'
    assert gateway.ask("POST", "/api/jobs", runner, {"recipe": recipe})[0] in (200, 201, 202)
    assert sample(gateway, token, 'modelops_jobs{state="queued"}') == before + 1
    assert sample(gateway, token, "modelops_engine_up") == 0
    assert sample(gateway, token, "modelops_gateway_active_requests") == 0
    text = gateway.ask("GET", "/metrics", token)[1]["text"]
    assert 'modelops_device_memory_total_bytes{device="cpu"' in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def sample(gateway: Gateway, token: str, name: str) -> float:
    lines = gateway.ask("GET", "/metrics", token)[1]["text"].splitlines()
    (found,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(found.rpartition(" ")[2])


def test_labels_are_escaped_as_prometheus_asks() -> None:
    assert _labels({"name": 'a"b\\c\nd'}) == '{name="a\\"b\\\\c\\nd"}'
