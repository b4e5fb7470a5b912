from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.api import Workbench
from engine.data.sql import run_sql
from engine.data.versions import import_rows
from engine.errors import BadInput, Refused
from engine.paths import StatePaths


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path / "state").ensure()
    for rows in ([1, 2], [1, 2, 3]):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps({"id": i, "label": f"row {i}"}) + "\n" for i in rows))
        import_rows(file, "tickets", paths)
    return paths


def test_versions_join(paths: StatePaths) -> None:
    query = 'select n.id from tickets n left join "tickets@v1" o using (id) where o.id is null'
    assert run_sql(query, paths).rows == ((3,),)


def test_limit_and_names(paths: StatePaths) -> None:
    found = run_sql("select id, id, label from tickets order by id", paths, limit=2)
    assert found.columns == ("id", "id_2", "label")
    assert (len(found.rows), found.truncated) == (2, True)


@pytest.mark.parametrize(
    "query",
    [
        "drop table tickets", "create table x as select 1", "copy (select 1) to '/tmp/x'",
        "attach '/tmp/x.db'", "set enable_external_access = true", "install httpfs",
        "select * from read_csv('/etc/passwd')", "select * from read_text('/etc/passwd')",
        "insert into tickets values (9, 'x')", "pragma database_list", "call pragma_version()",
    ],
)  # fmt: skip
def test_only_reads_and_no_files(paths: StatePaths, query: str) -> None:
    with pytest.raises(Refused):
        run_sql(query, paths)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("select 1; select 2", "one statement"),
        ("selec 1", "syntax"),
        ("select nope from tickets", "nope"),
        ("select * from '/etc/passwd'", "does not exist"),
    ],
)
def test_mistakes_are_told(paths: StatePaths, query: str, what: str) -> None:
    with pytest.raises(BadInput) as caught:
        run_sql(query, paths)
    assert what in caught.value.what.lower() + caught.value.why.lower()


def test_a_python_variable_is_no_table(paths: StatePaths) -> None:
    import pyarrow as pa

    hidden = pa.table({"a": [1]})
    with pytest.raises(BadInput):
        run_sql("select * from hidden", paths)
    assert hidden.num_rows == 1


def test_jobs_and_metrics(paths: StatePaths) -> None:
    store = sqlite3.connect(paths.jobs_db)
    store.execute("create table jobs (id text, state text, created real, error text)")
    store.execute("insert into jobs values ('000001-ab', 'succeeded', 1.5, null)")
    store.commit()
    store.close()
    run = paths.run_dir("000001-ab")
    run.mkdir(parents=True)
    events = [
        {"t": 1, "step": "train", "type": "metrics", "done": 1, "loss": 3.0},
        {"t": 2, "step": "train", "type": "metrics", "done": 2, "loss": 2.0},
        {"t": 3, "step": "train", "type": "metrics", "done": 2, "loss": 1.5},
        {"t": 4, "step": "train", "type": "note", "text": '"metrics"'},
    ]
    text = "".join(json.dumps(e) + "\n" for e in events) + '{"type": "metrics", "done'
    (run / "events.jsonl").write_text(text)
    joined = "jobs j join metrics m on m.job_id = j.id"
    query = f"select j.state, min(m.loss), count(*) from {joined} group by 1"
    assert run_sql(query, paths).rows == (("succeeded", 1.5, 2),)


def test_moments_have_their_zone_and_can_be_reckoned_with(paths: StatePaths) -> None:
    from engine.store.schema import MIGRATIONS

    store = sqlite3.connect(paths.jobs_db)
    for statement in MIGRATIONS[0]:
        store.execute(statement)
    columns = {r[1]: (r[2], r[3]) for r in store.execute("pragma table_info(jobs)")}
    values: dict[str, Any] = {
        n: "" if kind == "TEXT" else 1 for n, (kind, needed) in columns.items() if needed
    }
    values.update(
        id="000001-ab", state="succeeded", created=1_000_000_000.25, ended=1_000_000_060.25
    )
    marks = ", ".join("?" * len(values))
    store.execute(f"insert into jobs ({', '.join(values)}) values ({marks})", [*values.values()])
    store.commit()
    store.close()
    found = run_sql("select created, epoch(ended - created), started from jobs", paths)
    ((created, seconds, started),) = found.rows
    moment = datetime.fromisoformat(created)
    assert (moment.timestamp(), moment.tzinfo is not None) == (1_000_000_000.25, True)
    assert (seconds, started) == (60.0, None)


def test_an_unquoted_version_says_how_it_is_written(paths: StatePaths) -> None:
    with pytest.raises(BadInput) as caught:
        run_sql("select * from tickets@v1", paths)
    assert 'select * from "tickets@v3"' in caught.value.hint


def test_a_fresh_state_directory_answers(tmp_path: Path) -> None:
    empty = StatePaths(tmp_path / "empty").ensure()
    assert run_sql("select name, state, created from jobs", empty).rows == ()
    assert run_sql("select name, created, parents from artifacts", empty).rows == ()
    assert run_sql("select outputs from steps", empty).rows == ()
    assert run_sql("select count(*) from jobs", empty).rows == ((0,),)
    assert run_sql("select count(*) from metrics", empty).rows == ((0,),)
    assert run_sql("select count(*) from artifacts", empty).rows == ((0,),)


def test_what_a_query_finds_is_kept_as_a_version(paths: StatePaths) -> None:
    bench = Workbench(paths.root)
    first = bench.data.sql_into("select id, id, label from tickets where id > 1", "late")
    assert (first.rows, bool(first.manifest), first.message[:6]) == (2, True, "select")
    page = bench.data.rows("late")
    assert sorted(row["id_2"] for row in page.rows) == [2, 3]
    more = bench.data.sql_into("select 9 as id, 9 as id_2, 'x' as label", "late", append=True)
    assert (more.version, more.rows) == (first.version + 1, 3)
    with pytest.raises(Refused, match="not a read"):
        bench.data.sql_into("drop table tickets", "late")
    with pytest.raises(BadInput, match="can't name a dataset"):
        bench.data.sql_into("select 1", "../x")
    assert bench.data.show("late").versions == 2
    assert bench.data.show("tickets").versions == 2, "what is read stays as it is"
    assert list(paths.cache.iterdir()) == [], "nothing is left on the way"
