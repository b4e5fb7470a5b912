"""Looking at versions and moving between them: rows, statistics, restore, vacuum, export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.data.plain import plain
from engine.data.versions import Dataset, measure
from engine.errors import BadInput, NotFound
from engine.types.data import ColumnView, DatasetVersion, RowsPage, VacuumReport

EXPORT_SUFFIXES = (".jsonl", ".parquet", ".csv")
#: rows up to which distinct values are counted
EXACT_ROWS = 1_000_000


def rows_page(dataset: Dataset, version: int, offset: int = 0, limit: int = 50) -> RowsPage:
    """``limit`` rows from ``offset``; only the row groups that hold them are read."""
    data = dataset.dataset(version)
    total = measure(dataset.table(version))[0]
    rows: list[dict[str, Any]] = []
    skipped = 0
    for part in _parts(data):
        if len(rows) >= limit:
            break
        count = sum(group.num_rows for group in part.row_groups)  # count_rows: of the whole file
        if skipped + count <= offset:
            skipped += count
            continue
        for batch in part.to_batches(schema=data.schema, batch_size=1_024):
            begin = max(0, offset - skipped)
            skipped += batch.num_rows
            if begin < batch.num_rows:
                rows.extend(batch.slice(begin, limit - len(rows)).to_pylist())
            if len(rows) >= limit:
                break
    schema = tuple((field.name, str(field.type)) for field in data.schema)
    return RowsPage(
        dataset.name,
        version,
        tuple(data.schema.names),
        tuple(map(plain, rows)),
        offset,
        total,
        schema,
    )


def _parts(data: Any) -> Iterator[Any]:
    """The row groups of a dataset in order, each as a fragment that reads nothing else."""
    for fragment in data.get_fragments():
        yield from fragment.split_by_row_group()


def statistics(dataset: Dataset, version: int) -> tuple[ColumnView, ...]:
    """Nulls, distinct values, range and mean of every column, by DuckDB.

    Distinct values are counted up to ``EXACT_ROWS`` rows and estimated (some 2 % off) above.
    """
    import duckdb  # 125 ms

    connection = duckdb.connect()
    connection.execute("SET python_enable_replacements=false")
    connection.register("rows", dataset.dataset(version))
    # an estimate may say 51 of 50: only where counting would take long
    exact = measure(dataset.table(version))[0] <= EXACT_ROWS
    columns = []
    for field in dataset.dataset(version).schema:
        name = '"' + field.name.replace('"', '""') + '"'
        nested = str(field.type).startswith(("list", "struct", "map"))
        ranges = "NULL, NULL" if nested else f"min({name})::VARCHAR, max({name})::VARCHAR"
        number = str(field.type).startswith(("int", "float", "double", "decimal"))
        mean = f"avg({name})" if number else "NULL"
        distinct_sql = f"count(DISTINCT {name})" if exact else f"approx_count_distinct({name})"
        found = connection.execute(
            f"SELECT count(*) - count({name}), {distinct_sql}, {ranges}, {mean} FROM rows"
        ).fetchone()
        if found is not None:
            nulls, distinct, low, high, average = found
            columns.append(
                ColumnView(field.name, str(field.type), nulls, distinct, low, high, average)
            )
    return tuple(columns)


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
        # the log names files for ever: those of an earlier vacuum are gone
        named = [dataset.table_path / file for file in table.vacuum(dry_run=True, **options)]
        sizes = [file.stat().st_size for file in named if file.exists()]
        if not dry_run and sizes:
            table.vacuum(dry_run=False, **options)
    return VacuumReport(dataset.name, len(sizes), sum(sizes), kept, dry_run)


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
            hint="the file's ending says what is written",
        )
    if target.exists() and not force:
        raise BadInput(f"{target} exists", hint="--force writes over it")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}", hint="make it first: mkdir -p")
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
                    file.write(json.dumps(row, ensure_ascii=False, default=plain) + "\n")
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
