"""What differs between two versions of a dataset: counted, with samples, by DuckDB."""

from __future__ import annotations

from typing import Any

from engine.data.plain import plain
from engine.data.versions import Dataset
from engine.errors import BadInput
from engine.types.data import DataDiff


def diff(
    dataset: Dataset,
    old: int,
    new: int,
    key: tuple[str, ...] = (),
    limit: int = 5,
    offset: int = 0,
) -> DataDiff:
    """Count the rows that differ between two versions, and give a page of them.

    Args:
        dataset: what both are versions of.
        old: version before.
        new: version after.
        key: columns that tell which rows are the same row.
        limit: at most this many rows of each kind (added, removed, changed).
        offset: rows of each kind before them; the order is that of the key, else of the values.

    Raises:
        BadInput: a key column that both versions do not have; a negative limit or offset.
    """
    import duckdb  # 125 ms

    if limit < 0 or offset < 0:
        raise BadInput("rows and their offset can't be negative")
    before, after = dataset.dataset(old).schema, dataset.dataset(new).schema
    shared = [n for n in after.names if n in before.names]
    if missing := [k for k in key if k not in shared]:
        raise BadInput(
            f"no column {', '.join(missing)} in both versions",
            hint=f"both have {', '.join(shared)}" if shared else "they share no column",
        )
    connection = duckdb.connect()
    connection.execute("SET python_enable_replacements=false")
    connection.register("old", dataset.dataset(old))
    connection.register("new", dataset.dataset(new))
    # a column whose type changed compares by its text, every other by value
    same = {n: before.field(n).type == after.field(n).type for n in shared}
    columns = [_quoted(n) if same[n] else f"{_quoted(n)}::VARCHAR AS {_quoted(n)}" for n in shared]
    rows = f"SELECT {', '.join(columns) or '1'}"
    connection.execute(f"CREATE TEMP TABLE gone AS ({rows} FROM old) EXCEPT ALL ({rows} FROM new)")
    connection.execute(f"CREATE TEMP TABLE come AS ({rows} FROM new) EXCEPT ALL ({rows} FROM old)")
    removed, added = _count(connection, "gone"), _count(connection, "come")
    changed = 0
    pairs: tuple[dict[str, Any], ...] = ()
    if key:
        changed = _count_changed(connection, key)
        pairs = _changed_rows(connection, key, [n for n in shared if n not in key], limit, offset)
        added, removed = added - changed, removed - changed
    types = [
        (n, str(before.field(n).type), str(after.field(n).type)) for n in shared if not same[n]
    ]
    return DataDiff(
        dataset.name, old, new, key, added, removed, changed,
        columns_added=tuple(n for n in after.names if n not in before.names),
        columns_removed=tuple(n for n in before.names if n not in after.names),
        types_changed=tuple(types),
        added_rows=_sample(connection, "come", "gone", key, limit, offset),
        removed_rows=_sample(connection, "gone", "come", key, limit, offset),
        changed_rows=pairs,
    )  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _count(connection: Any, table: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found[0])


def _matching(key: tuple[str, ...], one: str, other: str) -> str:
    return " AND ".join(
        f"{one}.{_quoted(k)} IS NOT DISTINCT FROM {other}.{_quoted(k)}" for k in key
    )


def _count_changed(connection: Any, key: tuple[str, ...]) -> int:
    """Rows whose key is on both sides; of a key that stands more than once, the smaller number."""
    keys = ", ".join(_quoted(k) for k in key)
    found = connection.execute(
        "SELECT coalesce(sum(least(g.n, c.n)), 0)::BIGINT"
        f" FROM (SELECT {keys}, count(*) AS n FROM gone GROUP BY ALL) g"
        f" JOIN (SELECT {keys}, count(*) AS n FROM come GROUP BY ALL) c"
        f" ON {_matching(key, 'g', 'c')}"
    ).fetchone()
    return int(found[0])


def _changed_rows(
    connection: Any, key: tuple[str, ...], others: list[str], limit: int, offset: int
) -> tuple[dict[str, Any], ...]:
    """A page of the changed rows: their key, and of every column that differs both values."""
    names = [*key, *others]
    both = ", ".join(f"{side}.{_quoted(n)}" for side in ("g", "c") for n in names)
    keys = ", ".join(f"g.{_quoted(k)}" for k in key)
    found = connection.execute(
        f"SELECT {both} FROM gone g JOIN come c ON {_matching(key, 'g', 'c')}"
        # of a key that stands more than once, one pair
        f" QUALIFY row_number() OVER (PARTITION BY {keys}) = 1 ORDER BY {keys}"
        f" LIMIT {int(limit)} OFFSET {int(offset)}"
    )
    rows = []
    for row in found.fetchall():
        values = [plain(value) for value in row]
        old, new = values[: len(names)], values[len(names) :]
        changes = {
            name: [a, b]
            for name, a, b in zip(names, old, new, strict=True)
            if name not in key and a != b
        }
        rows.append({"key": dict(zip(key, old, strict=False)), "changes": changes})
    return tuple(rows)


def _sample(
    connection: Any, table: str, other: str, key: tuple[str, ...], limit: int, offset: int
) -> tuple[dict[str, Any], ...]:
    """A page of the rows of ``table`` whose key is not in ``other``; without a key, of all."""
    where = ""
    if key:
        where = f" WHERE NOT EXISTS (SELECT 1 FROM {other} o WHERE {_matching(key, 'o', 't')})"
    names = [row[0] for row in connection.execute(f"DESCRIBE {table}").fetchall()]
    order = ", ".join(_quoted(n) for n in (*key, *(n for n in names if n not in key)))
    found = connection.execute(
        f"SELECT * FROM {table} t{where} ORDER BY {order} LIMIT {int(limit)} OFFSET {int(offset)}"
    )
    return tuple(plain(dict(zip(names, row, strict=True))) for row in found.fetchall())
