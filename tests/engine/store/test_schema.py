"""``jobs.db`` is made by many at once, migrated with a backup, and never left half-written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import Conflict, EngineUnavailable, ModelOpsError, OutOfSpace
from engine.store import read
from engine.store.connection import StoreBusy, connect, transaction
from engine.store.schema import MIGRATIONS, VERSION, migrate, open_store, user_version
from engine.types.jobs import JobState

RELEASED = Path(__file__).parent / "released"


def released(tmp_path: Path, version: int) -> Path:
    """A job store as that version left it: one job of every state, the queue in order."""
    path = tmp_path / "jobs.db"
    conn = sqlite3.connect(path)
    conn.executescript((RELEASED / f"v{version}.sql").read_text())
    conn.execute(f"PRAGMA user_version={version}")
    conn.commit()
    conn.close()
    return path


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_every_released_version_migrates_with_its_queue_intact(
    tmp_path: Path, version: int
) -> None:
    path = released(tmp_path, version)
    conn = open_store(path, may_migrate=True)
    assert user_version(conn) == VERSION
    queued = read.list_jobs(conn, states=[JobState.QUEUED]).jobs
    assert [job.id for job in queued] == ["000003-cccc", "000002-bbbb"]
    assert read.list_steps(conn, "000002-bbbb")[0].params == {"steps": 3}
    assert read.get_job(conn, "000001-aaaa").state is JobState.SUCCEEDED
    conn.close()


def test_a_migration_keeps_a_backup_of_before(tmp_path: Path) -> None:
    path = released(tmp_path, 1)
    conn = connect(path)
    next_version = (*MIGRATIONS[:1], ("ALTER TABLE jobs ADD COLUMN colour TEXT",))
    backup = migrate(conn, path, next_version)
    assert backup == tmp_path / "jobs.db.backup-v1"
    columns = {row[1] for row in conn.execute("PRAGMA table_info(jobs)")}
    assert "colour" in columns
    before = sqlite3.connect(backup)
    assert before.execute("PRAGMA user_version").fetchone() == (1,)
    assert before.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
    before.close()
    conn.close()


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    path = released(tmp_path, 1)
    conn = connect(path)
    broken = (*MIGRATIONS[:1], ("ALTER TABLE jobs ADD COLUMN colour TEXT", "NO SUCH STATEMENT"))
    with pytest.raises(ModelOpsError):
        migrate(conn, path, broken)
    assert user_version(conn) == 1
    assert "colour" not in {row[1] for row in conn.execute("PRAGMA table_info(jobs)")}
    conn.close()


def test_only_the_engine_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = released(tmp_path, 1)
    monkeypatch.setattr("engine.store.schema.VERSION", 2)
    with pytest.raises(EngineUnavailable, match="older version") as caught:
        open_store(path)
    assert "engine restart" in caught.value.hint


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = released(tmp_path, 1)
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version={VERSION + 1}")
    conn.close()
    with pytest.raises(Conflict, match="newer version"):
        open_store(path)


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(ModelOpsError, match="damaged") as caught:
        open_store(path)
    assert "backup" in caught.value.hint


def test_eight_clients_create_it_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from engine.store.schema import open_store;"
    code += "open_store(Path(sys.argv[1]))"
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "jobs.db")], stderr=subprocess.PIPE
        )
        for _ in range(8)
    ]
    for client in clients:
        _, err = client.communicate(timeout=200)
        assert client.returncode == 0, err


def test_durability_settings(tmp_path: Path) -> None:
    conn = open_store(tmp_path / "jobs.db")
    assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert conn.execute("PRAGMA synchronous").fetchone()[0] == 2
    conn.close()


def test_a_failed_commit_is_rolled_back(tmp_path: Path) -> None:
    """A COMMIT that fails leaves SQLite's transaction open: the next writer must not join it."""
    conn = open_store(tmp_path / "jobs.db")
    conn.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    conn.execute(
        "CREATE TABLE child (id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(sqlite3.IntegrityError), transaction(conn):
        # checked at COMMIT only
        conn.execute("INSERT INTO child VALUES (1)")
    assert not conn.in_transaction
    with transaction(conn):
        conn.execute("INSERT INTO parent VALUES (1)")
    assert conn.execute("SELECT count(*) FROM child").fetchone()[0] == 0
    conn.close()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    conn = open_store(tmp_path / "jobs.db")
    pages = conn.execute("PRAGMA page_count").fetchone()[0]
    conn.execute(f"PRAGMA max_page_count={pages}")
    rows = [("x" * 4000,)] * 100
    with pytest.raises(OutOfSpace, match="could not be written"), transaction(conn):
        conn.executemany("INSERT INTO memo VALUES (hex(randomblob(8)), ?, '', '', '', 0)", rows)
    assert not conn.in_transaction
    conn.close()


def test_a_lock_held_too_long_is_named(tmp_path: Path) -> None:
    first = open_store(tmp_path / "jobs.db")
    second = connect(tmp_path / "jobs.db", busy_timeout_s=0.05)
    with transaction(first), pytest.raises(StoreBusy, match="busy"), transaction(second):
        pass
    first.close()
    second.close()
