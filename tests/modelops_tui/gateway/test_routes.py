"""Each group of routes does what its words say, on real data: no engine, no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.gateway_state import RECIPE, fill

Call = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _filled(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
        fill(gateway.bench, tmp_path_factory.mktemp("files"))


@pytest.fixture
def call(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    token, _ = gateway.tokens.add("me", ["admin"])

    def ask(method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        status, value, _ = gateway.ask(method, path, token, body)
        assert status == expect, value
        return value

    return ask


def test_jobs(call: Call) -> None:
    job = call("POST", "/api/jobs", {"recipe": RECIPE, "sets": ["metric_rows=2"]}, expect=201)
    assert job["state"] == "queued"
    path = f"/api/jobs/{job['id']}"
    assert call("GET", path)["id"] == job["id"]
    assert call("GET", f"{path}/steps")[0]["params"]["metric_rows"] == 2
    assert call("GET", f"{path}/plan")["steps"]
    assert call("GET", f"{path}/attempts") == []
    assert call("POST", f"{path}/priority", {"priority": 7})["priority"] == 7
    assert call("POST", f"{path}/pause")["state"] == "paused"
    assert call("POST", f"{path}/resume")["state"] == "queued"
    call("DELETE", path, expect=409)
    assert call("POST", f"{path}/cancel")["state"] == "cancelled"
    assert call("POST", f"{path}/retry")["state"] == "queued"
    call("POST", f"{path}/cancel")
    page = call("GET", "/api/jobs?state=cancelled&limit=1")
    assert [j["id"] for j in page["jobs"]] == [job["id"]]
    assert call("GET", f"/api/jobs?limit=1&before={page['next_key']}")["jobs"][0]["id"] != job["id"]
    call("DELETE", path, expect=204)
    call("GET", path, expect=404)


def test_events_and_logs(gateway: Gateway, call: Call) -> None:
    job = call("GET", "/api/jobs/1")["id"]
    run = gateway.bench.paths.run_dir(job)
    first = '{"type": "note", "text": "one"}\n'
    (run / "events.jsonl").write_text(first + '{"type": "note", "text": "two"}\n')
    (run / "log").write_text("said\n")
    text = call("GET", f"/api/jobs/{job}/events")["text"]
    assert [json.loads(line[6:]).get("text") for line in text.splitlines() if "note" in line] == [
        "one",
        "two",
    ]
    assert "event: end\n" in text
    later = call("GET", f"/api/jobs/{job}/events?offset={len(first)}")["text"]
    assert "one" not in later
    assert "two" in later
    assert call("GET", f"/api/jobs/{job}/log?offset=2")["text"] == "id\n"
    everything = call("GET", "/api/events")["text"]
    assert f'"id": "{job}"' in everything
    assert everything.rstrip().endswith("data: {}")
    waiting = call("POST", "/api/jobs", {"recipe": RECIPE}, expect=201)["id"]
    # it is not over: the stream ends by its own limit and says where to go on
    assert "event: pause" in call("GET", f"/api/jobs/{waiting}/events")["text"]


def test_recipes(call: Call) -> None:
    assert "my-evaluation" in {entry["name"] for entry in call("GET", "/api/recipes")}
    assert call("GET", "/api/recipes/my-evaluation")["recipe"] == RECIPE
    saved = {"recipe": RECIPE + "# mine\n"}
    call("PUT", "/api/recipes/my-evaluation", saved, expect=409)
    call("PUT", "/api/recipes/my-evaluation", {**saved, "overwrite": True})
    assert call("GET", "/api/recipes/my-evaluation")["recipe"].endswith("# mine\n")
    bad = call("POST", "/api/recipes/check", {"recipe": 'kind = "evaluate"\nmodle = "x"\n'})
    assert bad["ok"] is False
    assert any("model" in d["advice"] + d["what"] for d in bad["diagnostics"])
    good = call("POST", "/api/recipes/check", {"recipe": RECIPE})
    assert (good["ok"], bool(good["explained"])) == (True, True)
    assert "evaluate" in {kind["name"] for kind in call("GET", "/api/kinds")}
    assert "model" in {key["key"] for key in call("GET", "/api/kinds/evaluate")}
    assert call("GET", "/api/recipe-schema")["$schema"]


def test_data(call: Call) -> None:
    path = "/api/datasets/tickets"
    assert call("GET", f"{path}/rows?limit=1&offset=1")["rows"][0]["prompt"] == "question 1"
    rows = [{"prompt": "question 9", "response": "nine"}]
    version = call("POST", f"{path}/rows", {"rows": rows, "message": "more"}, expect=201)
    assert (version["operation"], version["rows"]) == ("append", 4)
    merged = call(
        "PATCH",
        f"{path}/rows",
        {"rows": [{"prompt": "question 9", "response": "ten"}], "key": ["prompt"]},
    )
    assert merged["rows"] == 4
    changed = call("GET", f"{path}/diff?old=good")
    assert changed["added"] == 1
    assert {c["name"] for c in call("GET", f"{path}/statistics")} == {"prompt", "response"}
    call("PUT", f"{path}/tags/better", expect=204)
    assert "better" in call("GET", path)["tags"]
    call("DELETE", f"{path}/tags/better", expect=204)
    assert len(call("GET", f"{path}/versions")) == 4
    found = call("POST", "/api/sql", {"query": "SELECT count(*) AS n FROM tickets"})
    assert found["rows"] == [[4]]
    # the refusal names no byte of the file, and nothing is ever written
    call("POST", "/api/sql", {"query": "SELECT * FROM read_csv('/etc/passwd')"}, expect=403)
    call("POST", "/api/sql", {"query": "DROP TABLE tickets"}, expect=403)
    assert call("POST", "/api/sql", {"query": "SELECT count(*) FROM tickets"})["rows"] == [[4]]
    call("POST", f"{path}/rows", {"rows": [{"": 1}]}, expect=422)


def test_versions_of_a_dataset_from_end_to_end(gateway: Gateway, call: Call) -> None:
    path = "/api/datasets/visits"
    for rows in ([{"id": 1, "n": 1}, {"id": 2, "n": 2}], [{"id": 1, "n": 5}, {"id": 3, "n": 3}]):
        call("POST", f"{path}/rows", {"rows": rows, "mode": "overwrite"}, expect=201)
    found = call("GET", f"{path}/diff?old=v1&new=v2&key=id&limit=1")
    assert (found["added"], found["removed"], found["changed"]) == (1, 1, 1)
    assert found["changed_rows"] == [{"key": {"id": 1}, "changes": {"n": [1, 5]}}]
    assert call("GET", f"{path}/diff?old=v1&key=id&limit=1&offset=1")["changed_rows"] == []
    call("GET", f"{path}/diff?old=v1&key=none", expect=422)
    back = call("POST", f"{path}/restore", {"version": "v1"}, expect=201)
    assert (back["version"], back["operation"], back["rows"]) == (3, "restore", 2)
    call("POST", f"{path}/restore", {"version": "v9"}, expect=404)
    text = call("GET", f"{path}/export?version=v2")["text"]
    assert [json.loads(line)["n"] for line in text.splitlines()] == [5, 3]
    assert call("GET", f"{path}/export?format=csv")["text"].splitlines() == ["id,n", "1,1", "2,2"]
    assert list(gateway.bench.paths.cache.glob("tmp*")) == []
    signed = call("POST", f"{path}/sign?version=v1")["manifest"]
    assert signed == call("GET", f"{path}/versions")[-1]["manifest"]
    report = call("POST", f"{path}/vacuum", {"older_than_hours": 0})
    assert (report["dry_run"], sorted(report["kept"])) == (True, ["1", "2", "3"])
    # whatever comes in here is signed: without force nothing could ever be removed
    call("DELETE", path, expect=403)
    call("DELETE", f"{path}?force=true", expect=204)
    call("GET", path, expect=404)


def test_an_index_is_searched_narrowly_inspected_and_removed(
    gateway: Gateway, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "birds.md").write_text(
        "---\ntags: [bird]\ndate: 2026-01-05\n---\n# Penguins\n\nPenguins eat krill.\n"
    )
    (tmp_path / "cats.md").write_text("# Cats\n\nCats eat krill too, if they must.\n")
    list(gateway.bench.rag.sync(str(tmp_path), "zoo"))
    path = "/api/indexes/zoo"

    def found(**narrowed: Any) -> list[str]:
        body = {"query": "who eats krill", **narrowed}
        return sorted(hit["path"] for hit in call("POST", f"{path}/search", body)["hits"])

    assert found() == ["birds.md", "cats.md"]
    assert found(tags=["bird"]) == found(path="bird*") == ["birds.md"]
    assert found(since="2026-01-05", until="2026-01-05", mode="bm25") == ["birds.md"]
    for wrong in ({"since": "yesterday"}, {"until": "20260105"}, {"mode": "magic"}):
        call("POST", f"{path}/search", {"query": "krill", **wrong}, expect=422)
    (chunk,) = call("POST", f"{path}/inspect", {"file": "cats.md"})["chunks"]
    assert "krill" in chunk["words"]
    assert call("POST", f"{path}/inspect", {})["chunks"] == 2
    call("POST", f"{path}/inspect", {"file": "dogs.md"}, expect=404)
    read, _ = gateway.tokens.add("reader", ["read"])
    assert gateway.ask("DELETE", path, read)[0] == 403
    call("DELETE", path, expect=204)
    call("DELETE", path, expect=404)
    gateway.bench.rag.close()


def test_artifacts_stages_and_remotes(call: Call, tmp_path: Path) -> None:
    detail = call("GET", "/api/artifacts/support-bot")
    assert [file["path"] for file in detail["files"]] == ["report.json"]
    assert call("GET", "/api/artifacts/support-bot@1/files/report.json")
    assert call("POST", "/api/artifacts/support-bot/verify?deep=true")["ok"]
    assert call("GET", "/api/artifacts?name=support-bot")[0]["stages"] == ["dev"]
    moved = call("POST", "/api/promotions", {"ref": "support-bot@1", "stage": "staging"})
    assert "staging" in moved["stages"]
    assert call("GET", "/api/artifacts/support-bot/gates/prod")
    assert call("GET", "/api/stages/history?name=support-bot&stage=staging")[0]["version"] == "1"
    assert {s["name"] for s in call("GET", "/api/stages")} >= {"dev", "staging", "prod"}
    assert "x" in call("PUT", "/api/artifacts/support-bot/tags/x")["tags"]
    assert "x" not in call("DELETE", "/api/artifacts/support-bot/tags/x")["tags"]
    call("POST", "/api/demotions", {"name": "support-bot", "stage": "staging"}, expect=204)
    call("GET", "/api/artifacts/support-bot@staging", expect=404)
    assert call("GET", "/api/audit?name=support-bot")
    assert call("GET", "/api/artifacts/support-bot/lineage") == []
    assert call("GET", "/api/compare?left=support-bot&right=support-bot@1")["files"]
    remote = {"name": "shelf", "url": str(tmp_path / "shelf")}
    call("POST", "/api/remotes", remote, expect=201)
    assert [r["name"] for r in call("GET", "/api/remotes")] == ["shelf"]
    assert call("GET", "/api/remotes/shelf/status")["push_manifests"] > 0
    assert call("POST", "/api/remotes/shelf/push", {})["manifests"] > 0
    assert call("POST", "/api/remotes/shelf/pull", {"dry_run": True})["manifests"] == 0
    call("DELETE", "/api/remotes/shelf", expect=204)
    call("POST", "/api/remotes/shelf/push", {}, expect=404)


def test_a_remotes_password_is_not_told() -> None:
    from engine.types.artifacts import RemoteView
    from modelops_tui.gateway.remotes import shown

    view = RemoteView("r", "s3://key:secret@bucket/prefix?endpoint=http://h:9000", True)
    assert shown(view).url == "s3://bucket/prefix?endpoint=http://h:9000"


def test_system_and_tokens(gateway: Gateway, call: Call) -> None:
    assert call("GET", "/api/engine")["running"] is False
    assert call("GET", "/api/devices")[0]["memory_total"] > 0
    assert call("GET", "/api/disk")
    assert call("GET", "/api/settings")["engine"]
    assert {p["point"] for p in call("GET", "/api/plugins")} >= {"kind", "backend"}
    made = call("POST", "/api/tokens", {"name": "new", "scopes": ["read"]}, expect=201)
    assert gateway.ask("GET", "/api/jobs", made["secret"])[0] == 200
    assert gateway.ask("GET", "/api/tokens", made["secret"])[0] == 403
    assert made["secret"] not in json.dumps(call("GET", "/api/tokens"))
    assert call("DELETE", f"/api/tokens/{made['token']['id']}")["revoked"]
    assert gateway.ask("GET", "/api/jobs", made["secret"])[0] == 401


def test_deployments_and_indexes_that_are_not_there(call: Call) -> None:
    assert call("GET", "/api/deployments") == []
    assert call("GET", "/api/indexes") == []
    for method, path in (
        ("GET", "/api/deployments/none"),
        ("POST", "/api/deployments/none/wake"),
        ("GET", "/api/deployments/none/log"),
        ("GET", "/api/indexes/none/files"),
    ):
        call(method, path, expect=404)
    for path in ("search", "ask"):
        body = {"query": "x"} if path == "search" else {"question": "x"}
        call("POST", f"/api/indexes/none/{path}", body, expect=404)
    call("POST", "/api/deployments", {"model": "no-such-model"}, expect=422)
