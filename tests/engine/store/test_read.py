"""Finding jobs: ids, numbers, prefixes, pages, and that it stays indexed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import BadInput, NotFound
from engine.paths import StatePaths
from engine.store import read, requests
from engine.store.schema import open_store
from engine.store.submit import add_job, new_job_id
from engine.types.jobs import JobState
from tests.support.plans import Step, plan


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, StatePaths]]:
    paths = StatePaths(tmp_path).ensure()
    conn = open_store(paths.jobs_db)
    yield conn, paths
    conn.close()


Store = tuple[sqlite3.Connection, StatePaths]


def test_ids_sort_in_submit_order_and_never_come_back(store: Store) -> None:
    conn, paths = store
    ids = [add_job(conn, paths, plan()) for _ in range(12)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 12
    requests.request_cancel(conn, ids[-1])
    requests.remove(conn, ids[-1])
    after = add_job(conn, paths, plan())
    assert after.startswith("000013-")
    assert new_job_id(17) != new_job_id(17)


def test_a_job_is_found_by_id_number_and_prefix(store: Store) -> None:
    conn, paths = store
    ids = [add_job(conn, paths, plan()) for _ in range(12)]
    assert read.resolve_id(conn, ids[4]) == ids[4]
    assert read.resolve_id(conn, "5") == ids[4]
    assert read.resolve_id(conn, " 000005 ") == ids[4]
    assert read.resolve_id(conn, ids[4][:8].upper()) == ids[4]
    with pytest.raises(BadInput, match="several job ids"):
        read.resolve_id(conn, "0000")
    # the number 1 is job 1, not every job whose number begins with it
    assert read.resolve_id(conn, "1") == ids[0]
    for missing in ("99", "zzz", "000005-%", "'; DROP TABLE jobs"):
        with pytest.raises(NotFound):
            read.resolve_id(conn, missing)
    with pytest.raises(BadInput):
        read.resolve_id(conn, "  ")


def test_pages_of_chosen_states_and_text(store: Store) -> None:
    conn, paths = store
    ids = [add_job(conn, paths, plan(name=f"job-{n % 2}")) for n in range(10)]
    for job_id in ids[::3]:
        requests.request_pause(conn, job_id)
    chosen = [JobState.QUEUED, JobState.PAUSED]
    first = read.list_jobs(conn, states=chosen, limit=6)
    rest = read.list_jobs(conn, states=chosen, limit=6, before=first.next_key)
    assert [job.id for job in (*first.jobs, *rest.jobs)] == ids[::-1]
    assert rest.next_key is None
    paused = read.list_jobs(conn, states=[JobState.PAUSED])
    assert [job.id for job in paused.jobs] == ids[::3][::-1]
    odd = read.list_jobs(conn, text="JOB-1")
    assert [job.id for job in odd.jobs] == ids[1::2][::-1]
    assert read.list_jobs(conn, text="%").jobs == ()
    with pytest.raises(BadInput, match="page key"):
        read.list_jobs(conn, before="soon")


def test_lists_use_an_index(store: Store) -> None:
    conn, _ = store
    for where in ("state = 'queued' AND seq < 9", "seq < 9"):
        query = f"EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {where} ORDER BY seq DESC LIMIT 5"
        steps = " ".join(row["detail"] for row in conn.execute(query))
        assert "SEARCH" in steps
        assert "TEMP B-TREE" not in steps


def test_a_submit_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    conn, paths = store

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.store.submit._insert_rows", fail)
    with pytest.raises(OSError, match="No space left"):
        add_job(conn, paths, plan())
    assert list(paths.runs.iterdir()) == []
    assert read.list_jobs(conn).jobs == ()
    monkeypatch.undo()
    assert add_job(conn, paths, plan(Step("a"), Step("b"))).startswith("000001-")
