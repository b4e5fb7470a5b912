"""Rows into a Delta table, one commit a version: overwrite, append, merge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, OutOfSpace

if TYPE_CHECKING:
    from deltalake import DeltaTable


def write_rows(
    name: str,
    table: Path,
    reader: Any,
    mode: str,
    key: tuple[str, ...],
    properties: dict[str, str],
) -> None:
    """Commit rows as one version; the caller holds the dataset.

    Args:
        name: of the dataset, for the messages.
        table: its Delta table; made where it is missing.
        reader: an Arrow reader of record batches.
        mode: ``overwrite``, ``append`` or ``merge``.
        key: columns that identify a row, for ``merge``.
        properties: kept in the commit.

    Raises:
        BadInput: the rows don't fit the table, or the key is missing or repeated.
        OutOfSpace: the disk is full; the table stays as it was.
    """
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable, write_deltalake
    from deltalake.exceptions import DeltaError

    where = str(table)
    commit = CommitProperties(custom_metadata=properties)
    try:
        # the empty version 0 makes the first rows v1
        if not DeltaTable.is_deltatable(where):
            DeltaTable.create(where, schema=reader.schema, mode="ignore")
        if mode == "merge":
            _merge(DeltaTable(where), reader.read_all(), key, commit)
        else:
            schema_mode: Any = "merge" if mode == "append" else "overwrite"
            write_mode: Any = mode
            write_deltalake(
                where, reader, mode=write_mode, schema_mode=schema_mode, commit_properties=commit
            )
    except OSError as error:
        raise _disk(name, str(error)) from error
    except (DeltaError, pa.ArrowException) as error:
        text = str(error)
        if "No space left" in text:
            raise _disk(name, text) from error
        raise BadInput(
            f"the rows don't fit {name}",
            why=text.splitlines()[0],
            hint="overwrite takes another schema; append and merge only add columns",
        ) from error


def _disk(name: str, reason: str) -> OutOfSpace:
    return OutOfSpace(f"{name} could not be written", why=reason, hint="the dataset is unchanged")


def _merge(table: DeltaTable, rows: Any, key: tuple[str, ...], commit: Any) -> None:
    missing = [k for k in key if k not in rows.column_names]
    known = {f.name for f in table.schema().fields}
    missing += [k for k in key if k not in known and k not in missing]
    if missing:
        both = [n for n in rows.column_names if n in known]
        raise BadInput(
            f"no column {', '.join(missing)} to merge by",
            hint=f"the rows and the dataset share {', '.join(both) or 'none'}",
        )
    counts = rows.group_by(list(key)).aggregate([([], "count_all")])
    repeated = sum(1 for n in counts["count_all"].to_pylist() if n > 1)
    if repeated:
        raise BadInput(
            f"{repeated} keys stand more than once in the source",
            why="a merge would not know which row counts",
            hint="name more columns (--key once for each), or drop the repeated rows",
        )
    on = " AND ".join(f"target.`{k}` = source.`{k}`" for k in key)
    merger = table.merge(
        rows, on, source_alias="source", target_alias="target",
        merge_schema=True, commit_properties=commit,
    )  # fmt: skip
    merger.when_matched_update_all().when_not_matched_insert_all().execute()
