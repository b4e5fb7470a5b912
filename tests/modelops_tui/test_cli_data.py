from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE


@pytest.fixture
def run(tmp_path: Path):
    def call(*arguments: str, status: int = 0) -> str:
        env = {**os.environ, "MODELOPS_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "modelops_tui", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return call


def test_import_list_show_sql_and_back(run, tmp_path: Path) -> None:
    (tmp_path / "tickets.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n')
    made = json.loads(run("data", "import", "tickets.jsonl", "--json"))
    assert (made["version"], made["rows"]) == ("v1", 2)
    assert made["manifest"].startswith("sha256:")
    (tmp_path / "more.jsonl").write_text('{"id": 3, "text": "c"}\n')
    run("data", "import", "more.jsonl", "tickets", "--append")
    (listed,) = json.loads(run("data", "list", "--json"))
    assert (listed["name"], listed["latest"], listed["rows"]) == ("tickets", "v2", 3)
    shown = json.loads(run("data", "show", "tickets@v1", "--json"))
    assert [r["id"] for r in shown["rows"]] == [1, 2]
    query = 'select count(*) as n from "tickets@v1"'
    assert json.loads(run("data", "sql", query, "--json")) == [{"n": 2}]
    tagged = json.loads(run("data", "tag", "tickets@v1", "golden", "--json"))
    assert tagged == {"name": "tickets", "tag": "golden", "deleted": False, "tags": {"golden": 1}}
    run("data", "restore", "tickets@golden")
    assert "-1" not in run("data", "diff", "tickets", "v1", "latest")
    told = json.loads(run("data", "export", "tickets@golden", "out.csv", "--json"))
    assert told == {"ref": "tickets@golden", "file": "out.csv", "rows": 2}
    assert (tmp_path / "out.csv").read_text().startswith("id,text\n1,a\n")


def test_rows_are_shown_whole_with_nested_values_as_json(run, tmp_path: Path) -> None:
    long = "word " * 100 + "end"
    rows = [
        {
            "id": 1,
            "ratio": 0.1234567890123,
            "deep": {"tags": ["a", None], "ok": True},
            "text": long,
        },
        {"id": 2, "ratio": 2.5, "deep": {"tags": [], "ok": False}, "text": "short"},
    ]
    (tmp_path / "deep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("data", "import", "deep.jsonl", "-m", "as delivered")
    shown = run("data", "show", "deep", "--stats")
    assert '{"tags": ["a", null], "ok": true}' in shown
    assert "0.1234567890123" in shown
    assert long in shown
    assert "as delivered" in shown
    assert "columns: id int64, ratio double, deep struct<" in shown
    assert long in run("data", "sql", "select text, deep from deep")
    (tmp_path / "deep.jsonl").write_text(json.dumps({**rows[0], "text": "new"}) + "\n")
    run("data", "import", "deep.jsonl", "--merge", "--key", "id")
    changed = run("data", "diff", "deep", "v1", "v2", "--key", "id")
    assert f'~ id=1  text: "{long}" -> "new"' in changed
    (pair,) = json.loads(run("data", "diff", "deep", "v1", "--key", "id", "--json"))["changed_rows"]
    assert pair == {"key": {"id": 1}, "changes": {"text": [long, "new"]}}


def test_time_travel_by_date(run, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n')
    run("data", "import", "t.jsonl")
    (version,) = json.loads(run("data", "show", "t", "--json"))["versions"]
    (tmp_path / "t.jsonl").write_text('{"id": 2}\n')
    run("data", "import", "t.jsonl")
    moment = datetime.fromtimestamp(version["time"] + 0.001).astimezone().isoformat()
    shown = json.loads(run("data", "show", f"t@{moment}", "--json"))
    assert [row["id"] for row in shown["rows"]] == [1]
    query = f'select id from "t@{moment}"'
    assert json.loads(run("data", "sql", query, "--json")) == [{"id": 1}]
    assert "did not exist on 1999-01-01" in run("data", "show", "t@1999-01-01", status=3)


def test_a_vacuum_and_a_removal_are_told_in_words_and_json(run, tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"id": 1}\n')
    run("data", "import", "notes.jsonl", "--no-sign")
    shown = run("data", "vacuum", "notes", "--older-than", "0")
    assert "can be deleted" in shown
    assert "True" not in shown
    assert "False" not in shown
    found = json.loads(run("data", "vacuum", "notes", "--older-than", "0", "--json"))
    assert (found["deleted"], list(found["kept"])) == (False, ["v1"])
    gone = json.loads(run("data", "rm", "notes", "--json"))
    assert gone == {"name": "notes", "removed": True}
    assert json.loads(run("data", "list", "--json")) == []


def test_mistakes_have_their_exit_status(run, tmp_path: Path) -> None:
    assert "does not exist" in run("data", "import", "nope.jsonl", status=3)
    assert "no dataset" in run("data", "show", "nope", status=3)
    assert "not a read" in run("data", "sql", "drop table x", status=5)
    (tmp_path / "bad.jsonl").write_text("{")
    assert "bad.jsonl:1" in run("data", "import", "bad.jsonl", status=2)


def test_a_version_is_signed_later(run, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n')
    made = json.loads(run("data", "import", "t.jsonl", "--no-sign", "--json"))
    assert made["manifest"] is None
    signed = json.loads(run("data", "sign", "t", "--json"))
    assert (signed["name"], signed["version"]) == ("t", "v1")
    assert (
        json.loads(run("data", "show", "t", "--json"))["version"]["manifest"]
        == (signed["manifest"])
    )
    assert signed["manifest"] in json.dumps(json.loads(run("models", "show", "t", "--json")))


def test_bundled_data_says_what_it_is_and_becomes_a_dataset(run) -> None:
    said = run("data", "show", "house/train", status=3)
    assert "comes with the program" in said
    (command,) = re.findall(r"modelops-tui (data import house/train \S+)", said)
    made = json.loads(run(*command.split(), "--json"))
    assert (made["name"], made["rows"] > 100) == ("house-train", True)
    assert "rag sync docs" in run("data", "show", "docs", status=3)


def test_check_and_mask_run_the_training_code(run) -> None:
    report = json.loads(run("data", "check", "house/heldout", "--json"))
    assert report["report"]["rows"] > 0
    shown = run("data", "mask", "house/train", "--row", "2")
    assert shown.count("‹") == shown.count("›") >= 1
    assert shown.index("<|im_start|>assistant") < shown.index("‹")
