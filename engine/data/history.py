"""Looking at versions and moving between them: rows, statistics, differences, restore, vacuum."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.data.versions import Dataset, measure
from engine.errors import BadInput, NotFound
from engine.types.data import ColumnView, DataDiff, DatasetVersion, RowsPage, VacuumReport

EXPORT_SUFFIXES = (".jsonl", ".parquet", ".csv")


def rows_page(dataset: Dataset, version: int, offset: int = 0, limit: int = 50) -> RowsPage:
    """``limit`` rows from ``offset``; only the row groups that hold them are read."""
    data = dataset.dataset(version)
    total = measure(dataset.table(version))[0]
    rows: list[dict[str, Any]] = []
    skipped = 0
    for fragment in data.get_fragments():
        count = fragment.count_rows()
        if skipped + count <= offset:
            skipped += count
            continue
        for batch in fragment.to_batches(schema=data.schema, batch_size=1_024):
            begin = max(0, offset - skipped)
            skipped += batch.num_rows
            if begin < batch.num_rows:
                rows.extend(batch.slice(begin, limit - len(rows)).to_pylist())
            if len(rows) >= limit:
                break
        if len(rows) >= limit:
            break
    columns = tuple(data.schema.names)
    return RowsPage(dataset.name, version, columns, tuple(map(_plain, rows)), offset, total)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(row, default=str, ensure_ascii=False))
    return value


def statistics(dataset: Dataset, version: int) -> tuple[ColumnView, ...]:
    """Nulls, distinct values (approximate), range and mean of every column, by DuckDB."""
    import duckdb  # 125 ms

    connection = duckdb.connect()
    connection.execute("SET python_enable_replacements=false")
    connection.register("rows", dataset.dataset(version))
    columns = []
    for field in dataset.dataset(version).schema:
        name = '"' + field.name.replace('"', '""') + '"'
        nested = str(field.type).startswith(("list", "struct", "map"))
        ranges = "NULL, NULL" if nested else f"min({name})::VARCHAR, max({name})::VARCHAR"
        number = str(field.type).startswith(("int", "float", "double", "decimal"))
        mean = f"avg({name})" if number else "NULL"
        found = connection.execute(
            f"SELECT count(*) - count({name}), approx_count_distinct({name}), {ranges}, {mean} "
            "FROM rows"
        ).fetchone()
        if found is not None:
            nulls, distinct, low, high, average = found
            columns.append(
                ColumnView(field.name, str(field.type), nulls, distinct, low, high, average)
            )
    return tuple(columns)


def diff(
    dataset: Dataset, old: int, new: int, key: tuple[str, ...] = (), sample: int = 5
) -> DataDiff:
    """Count and sample the rows that differ between two versions.

    Raises:
        BadInput: a key column that both versions do not have.
    """
    import duckdb

    before, after = dataset.dataset(old).schema, dataset.dataset(new).schema
    shared = [n for n in after.names if n in before.names]
    if missing := [k for k in key if k not in shared]:
        raise BadInput(f"no column {', '.join(missing)} in both versions")
    connection = duckdb.connect()
    connection.execute("SET python_enable_replacements=false")
    connection.register("old", dataset.dataset(old))
    connection.register("new", dataset.dataset(new))
    # values as text, so that a changed column type compares by value and nested ones compare at all
    text = f"SELECT {', '.join(f'{_quoted(n)}::VARCHAR AS {_quoted(n)}' for n in shared) or '1'}"
    gone_sql = f"({text} FROM old) EXCEPT ALL ({text} FROM new)"
    come_sql = f"({text} FROM new) EXCEPT ALL ({text} FROM old)"
    changed = 0
    removed = _count(connection, gone_sql)
    added = _count(connection, come_sql)
    if key:
        on = " AND ".join(f"g.{_quoted(k)} IS NOT DISTINCT FROM c.{_quoted(k)}" for k in key)
        changed = _count(connection, f"SELECT 1 FROM ({gone_sql}) g JOIN ({come_sql}) c ON {on}")
        added, removed = added - changed, removed - changed
    types = [
        (n, str(before.field(n).type), str(after.field(n).type))
        for n in shared
        if before.field(n).type != after.field(n).type
    ]
    return DataDiff(
        dataset.name, old, new, key, added, removed, changed,
        columns_added=tuple(n for n in after.names if n not in before.names),
        columns_removed=tuple(n for n in before.names if n not in after.names),
        types_changed=tuple(types),
        added_rows=_sample(connection, come_sql, sample),
        removed_rows=_sample(connection, gone_sql, sample),
    )  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _count(connection: Any, query: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM ({query})").fetchone()
    return int(found[0])


def _sample(connection: Any, query: str, limit: int) -> tuple[dict[str, Any], ...]:
    found = connection.execute(f"SELECT * FROM ({query}) LIMIT {int(limit)}")
    names = [d[0] for d in found.description]
    return tuple(dict(zip(names, row, strict=True)) for row in found.fetchall())


def restore(dataset: Dataset, version: int) -> DatasetVersion:
    """Make a new version with the rows of an older one.

    Raises:
        NotFound: the older version's files were vacuumed.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import DeltaError

    with dataset.writing():
        commit = CommitProperties(
            custom_metadata={"modelops.mode": "restore", "modelops.source": f"v{version}"}
        )
        try:
            dataset.table().restore(version, commit_properties=commit)
        except DeltaError as error:
            raise NotFound(
                f"v{version} of {dataset.name} can't be restored",
                why=str(error).splitlines()[0],
                hint="its files may be vacuumed; the registry still has what was published",
            ) from error
        number = dataset.latest()
        rows, size = measure(dataset.table(number))
        dataset.record(number, rows=rows, size_bytes=size)
    return dataset.versions()[0]


def vacuum(dataset: Dataset, retention_hours: int = 168, *, dry_run: bool = True) -> VacuumReport:
    """Delete files that only old, unpinned versions need.

    Kept: the newest version, versions younger than ``retention_hours``, tagged versions, and those
    that a signed artifact (and so a lineage) names.

    Raises:
        BadInput: a negative retention.
    """
    if retention_hours < 0:
        raise BadInput("the retention can't be negative")
    with dataset.writing():
        kept: dict[int, str] = {}
        versions = dataset.versions()
        for view in versions:
            if view is versions[0]:
                kept[view.version] = "newest"
            elif view.tags:
                kept[view.version] = f"tag {', '.join(view.tags)}"
            elif view.manifest:
                kept[view.version] = f"published as {view.manifest[:19]}"
        table = dataset.table()
        options: dict[str, Any] = {
            "retention_hours": retention_hours,
            "enforce_retention_duration": False,
            "keep_versions": sorted(kept),
        }
        doomed = table.vacuum(dry_run=True, **options)
        sizes = [(dataset.table_path / f).stat().st_size for f in doomed]
        if not dry_run and doomed:
            table.vacuum(dry_run=False, **options)
    return VacuumReport(dataset.name, len(doomed), sum(sizes), kept, dry_run)


def export(dataset: Dataset, version: int, target: Path, *, force: bool = False) -> int:
    """Write a version to a ``.jsonl``, ``.csv`` or ``.parquet`` file; returns the rows written.

    Raises:
        BadInput: another ending, nested columns into CSV, or a file that is already there.
    """
    suffix = target.suffix.lower()
    if suffix not in EXPORT_SUFFIXES:
        raise BadInput(
            f"can't export to {suffix or target.name}",
            why=f"it is {', '.join(EXPORT_SUFFIXES)} only",
        )
    if target.exists() and not force:
        raise BadInput(f"{target} exists", hint="--force writes over it")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}")
    fresh = target.with_name(f".{target.name}.new")
    try:
        if suffix == ".parquet":
            from engine.data.publish import write_parquet

            write_parquet(dataset, version, fresh)
        elif suffix == ".csv":
            _write_csv(dataset, version, fresh)
        else:
            with fresh.open("w", encoding="utf-8") as file:
                for row in iterate(dataset, version):
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return measure(dataset.table(version))[0]


def iterate(dataset: Dataset, version: int) -> Iterator[dict[str, Any]]:
    """The rows of a version in the order they were written, a batch in memory at a time."""
    for batch in dataset.dataset(version).to_batches(batch_size=1_024, fragment_readahead=1):
        yield from batch.to_pylist()


def _write_csv(dataset: Dataset, version: int, target: Path) -> None:
    import csv

    schema = dataset.dataset(version).schema
    nested = [f.name for f in schema if str(f.type).startswith(("list", "struct", "map"))]
    if nested:
        raise BadInput(
            f"{', '.join(nested)} can't be a CSV column",
            why="it holds lists or objects",
            hint="export to .jsonl or .parquet",
        )
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, schema.names)
        writer.writeheader()
        writer.writerows(iterate(dataset, version))
