"""DuckDB over dataset versions, jobs, metrics and artifacts: read-only and without file access.

A query names a dataset (``tickets``, ``"tickets@v3"``) or one of the tables in :data:`TABLES`; only
what it names is registered. The connection can reach neither files nor the network nor Python
variables, so a query copied from anywhere can only read what is listed here.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.plain import TIME_COLUMNS, plain
from engine.data.versions import dataset_names, open_dataset
from engine.errors import BadInput, Refused
from engine.paths import StatePaths
from engine.types.data import SqlResult

if TYPE_CHECKING:
    import pyarrow as pa

#: tables beside the datasets
TABLES = {
    "jobs": "accepted runs: id, name, kind, state, created, ...",
    "steps": "steps of jobs: job_id, name, kind, state, outputs, ...",
    "attempts": "tries of steps: job_id, number, step, state, ...",
    "metrics": "training metrics: job_id, step, t, done, loss, ...",
    "artifacts": "the registry: name, artifact_type, manifest, ...",
}
_PINNED = re.compile(r'"([a-z0-9][a-z0-9._-]*)@([^"]+)"')
#: ``tickets@v3`` outside of quotes
_UNQUOTED = re.compile(r'(?<!["\w])[a-z0-9][a-z0-9._-]*@[\w.:+-]+', re.IGNORECASE)
_READS = {"SELECT", "EXPLAIN"}
_BATCH_ROWS = 10_000


def run_sql(
    query: str,
    paths: StatePaths,
    *,
    limit: int = 1_000,
    memory: str = "1GB",
    into: Path | None = None,
) -> SqlResult:
    """Run one query.

    Args:
        query: one SELECT (or EXPLAIN, DESCRIBE, SUMMARIZE, WITH, VALUES) statement.
        paths: the state directory.
        limit: at most this many rows are returned; ``truncated`` tells whether there were more.
        memory: DuckDB's memory limit; beyond it a query fails rather than swaps.
        into: write every row to this Parquet file; none is returned then.

    Raises:
        BadInput: SQL that does not parse or bind, more than one statement, too much memory.
        Refused: a statement that is not a read, or one that reaches for files.
    """
    import duckdb  # 125 ms

    connection = duckdb.connect(config={"memory_limit": memory})
    started = time.perf_counter()
    try:
        _only_a_read(connection, query)
        connection.execute("SET python_enable_replacements=false")
        for name, table in _wanted(query, paths).items():
            connection.register(name, table)
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        if into is not None:
            found = connection.sql(query)
            rows, described = [], list(zip(found.columns, found.types, strict=True))
        else:
            found = connection.execute(query)
            rows = [tuple(map(plain, row)) for row in found.fetchmany(limit + 1)]
            described = [column[:2] for column in found.description or ()]
        columns = _distinct([str(name) for name, _ in described])
        types = tuple(str(kind) for _, kind in described)
        if into is not None:
            _write(found, columns, into)
    except duckdb.PermissionException as error:
        raise Refused(
            "the query reaches for files",
            why=str(error).splitlines()[0],
            hint="import the file first: modelops-tui data import FILE NAME",
        ) from error
    except duckdb.CatalogException as error:
        names = ", ".join([*TABLES, *dataset_names(paths)])
        raise BadInput(_first(error), why=f"tables: {names}", hint=_VERSION_HINT) from error
    except duckdb.Error as error:
        hint = _VERSION_HINT if _UNQUOTED.search(query) else ""
        raise BadInput(_first(error), why=_rest(error), hint=hint) from error
    finally:
        connection.close()
    seconds = time.perf_counter() - started
    return SqlResult(columns, types, tuple(rows[:limit]), len(rows) > limit, seconds)


_VERSION_HINT = 'a version is written in double quotes: select * from "tickets@v3"'


def _write(found: Any, columns: tuple[str, ...], path: Path) -> None:
    """The rows of a relation as Parquet, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = found.to_arrow_reader(_BATCH_ROWS)
    fields = zip(columns, reader.schema, strict=True)
    schema = pa.schema([pa.field(name, field.type) for name, field in fields])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in reader:
            writer.write_batch(pa.record_batch(batch.columns, schema=schema))


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Column names with a number where a query names two columns alike."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(result)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _rest(error: Exception) -> str:
    return "\n".join(line for line in str(error).splitlines()[1:] if line.strip())


def _only_a_read(connection: Any, query: str) -> None:
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise BadInput(
            f"one statement at a time, not {len(statements)}",
            hint="WITH joins several into one; else ask one after the other",
        )
    kind = statements[0].type.name
    if kind not in _READS:
        raise Refused(
            f"{kind} is not a read",
            why="queries here only look",
            hint="new versions are made by data import, data restore and data sql --into NAME",
        )


def _wanted(query: str, paths: StatePaths) -> dict[str, Any]:
    """The tables a query names, by the name it uses."""
    lowered = query.lower()
    tables: dict[str, Any] = {}
    for name in dataset_names(paths):
        if name in lowered and name not in TABLES:
            tables[name] = open_dataset(name, paths).dataset()
    for name, selector in _PINNED.findall(query):
        dataset = open_dataset(name, paths)
        tables[f"{name}@{selector}"] = dataset.dataset(dataset.resolve(selector))
    makers = {"metrics": _metrics, "artifacts": _artifacts}
    for name in TABLES:
        if re.search(rf"\b{name}\b", lowered):
            make = makers.get(name)
            tables[name] = make(paths) if make else _store_table(paths, name)
    return tables


def _store_table(paths: StatePaths, table: str) -> pa.Table:
    """A table of ``jobs.db`` as Arrow; every column is there, an absent store has no row."""
    import pyarrow as pa

    from engine.store.schema import MIGRATIONS

    where = f"file:{paths.jobs_db}?mode=ro" if paths.jobs_db.exists() else ":memory:"
    store = sqlite3.connect(where, uri=True, timeout=5)
    try:
        if where == ":memory:":
            for statement in (line for migration in MIGRATIONS for line in migration):
                store.execute(statement)
        declared = {r[1]: str(r[2]).upper() for r in store.execute(f'PRAGMA table_info("{table}")')}
        found = store.execute(f'SELECT * FROM "{table}"')
        names = [d[0] for d in found.description]
        rows = found.fetchall()
    finally:
        store.close()
    columns = {}
    for at, name in enumerate(names):
        values = [row[at] for row in rows]
        if declared[name] == "REAL":
            columns[name] = (
                _moments(values) if name in TIME_COLUMNS else pa.array(values, pa.float64())
            )
        elif declared[name] == "INTEGER":
            columns[name] = pa.array(values, pa.int64())
        else:
            columns[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.table(columns)


def _moments(seconds: Sequence[float | None]) -> pa.Array:
    """Seconds since the epoch as moments: shown in local time with its zone."""
    import pyarrow as pa

    micros = [None if s is None else round(s * 1e6) for s in seconds]
    return pa.array(micros, pa.timestamp("us", "UTC"))


_METRIC_FIELDS = (
    "done", "total", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm",
    "tokens_per_s", "tokens_seen", "peak_memory_bytes",
)  # fmt: skip


def _metrics(paths: StatePaths) -> pa.Table:
    """Metric events of every job; a resumed attempt's repeats replace the first of (step, done)."""
    import pyarrow as pa

    rows: dict[tuple[str, str, float], dict[str, Any]] = {}
    for file in sorted(paths.runs.glob("*/events.jsonl")):
        with file.open("rb") as lines:
            for line in lines:
                if b'"metrics"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed writer
                if event.get("type") == "metrics":
                    key = (file.parent.name, str(event.get("step")), float(event.get("done") or 0))
                    rows[key] = event
    data: dict[str, Any] = {
        "job_id": pa.array([k[0] for k in rows], pa.string()),
        "step": pa.array([k[1] for k in rows], pa.string()),
        "t": _moments([_number(e.get("t")) for e in rows.values()]),
    }
    for name in _METRIC_FIELDS:
        data[name] = pa.array([_number(e.get(name)) for e in rows.values()], pa.float64())
    return pa.table(data)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _artifacts(paths: StatePaths) -> pa.Table:
    import dataclasses

    import pyarrow as pa

    from engine.registry import Registry
    from engine.types.artifacts import ArtifactView

    views = [dataclasses.asdict(view) for view in Registry.open(paths).list()]
    columns = {}
    for field in dataclasses.fields(ArtifactView):
        values = [view[field.name] for view in views]
        if field.name in TIME_COLUMNS:
            columns[field.name] = _moments(values)
            continue
        column = pa.array([_cell(value) for value in values])
        # without a row, or with nothing in any
        columns[field.name] = column.cast(pa.string()) if pa.types.is_null(column.type) else column
    return pa.table(columns)


def _cell(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return json.dumps(value, default=str)
