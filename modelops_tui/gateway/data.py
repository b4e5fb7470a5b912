"""``/api/datasets`` and ``/api/sql``: versions, rows, statistics, differences."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from engine.types.data import ColumnView, DataDiff, DatasetVersion, DatasetView, RowsPage, SqlResult
from modelops_tui.gateway.place import WHOLE, Given, Limit, Offset, Place, Row, body, group, plain

Dataset = Annotated[
    str, Path(max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$", examples=["tickets"])
]
Version = Annotated[
    str, Query(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$", examples=["latest"])
]
Tag = Annotated[
    str,
    Path(
        max_length=64,
        pattern=r"^[a-z][a-z0-9._-]*$",
        examples=["good"],
        # these name versions already
        json_schema_extra={"not": {"pattern": r"^(v[0-9]+|latest)$"}},
    ),
]
Column = Annotated[str, Field(min_length=1, max_length=200)]


class NewRows(Given):
    """Rows to import as a new version."""

    model_config = body(
        {"rows": [{"prompt": "Where is my parcel?", "response": "On its way."}], "mode": "append"}
    )
    rows: Annotated[list[Row], Field(min_length=1, max_length=100_000)]
    mode: Literal["overwrite", "append"] = "append"
    message: Annotated[str, Field(max_length=1000)] = ""


class MergedRows(Given):
    """Rows that replace those with the same key; the others are added."""

    model_config = body(
        {"rows": [{"prompt": "question 1", "response": "a better answer"}], "key": ["prompt"]}
    )
    rows: Annotated[list[Row], Field(min_length=1, max_length=100_000)]
    key: Annotated[list[Column], Field(min_length=1, max_length=16)]
    message: Annotated[str, Field(max_length=1000)] = ""


class Sql(Given):
    """A query."""

    model_config = body({"query": "SELECT count(*) AS jobs FROM jobs", "limit": 10})
    query: Annotated[str, Field(min_length=1, max_length=100_000)]
    limit: Annotated[int, Field(ge=1, le=10_000), WHOLE] = 1000


def routes(place: Place) -> APIRouter:
    """Everything about datasets."""
    router, data, gate = group("data"), place.bench.data, place.gate
    read, run, admin = [gate.needs("read")], [gate.needs("run")], [gate.needs("admin")]

    @router.get("/api/datasets", dependencies=read)
    def list_datasets() -> list[DatasetView]:
        """Every dataset."""
        return list(data.list())

    @router.get("/api/datasets/{name}", dependencies=read)
    def show(name: Dataset) -> DatasetView:
        """One dataset."""
        return data.show(name)

    @router.delete("/api/datasets/{name}", status_code=204, dependencies=admin)
    def remove(name: Dataset) -> None:
        """Delete a dataset that was never published, with all its versions."""
        data.remove(name)

    @router.get("/api/datasets/{name}/versions", dependencies=read)
    def versions(name: Dataset) -> list[DatasetVersion]:
        """Its versions, newest first."""
        return list(data.versions(name))

    @router.get("/api/datasets/{name}/rows", dependencies=read)
    def rows(
        name: Dataset, version: Version = "latest", offset: Offset = 0, limit: Limit = 50
    ) -> RowsPage:
        """A page of rows of a version (`latest`, `v3`, a tag, a date)."""
        page = data.rows(f"{name}@{version}", min(offset, 1 << 40), limit)
        value: RowsPage = plain(page)
        return value

    @router.post("/api/datasets/{name}/rows", status_code=201, dependencies=run)
    def add_rows(name: Dataset, body: NewRows) -> DatasetVersion:
        """Import rows as a new, signed version: after those there are, or in their stead."""
        with _file(place, body.rows) as file:
            return data.import_file(file, name, mode=body.mode, message=body.message)[0]

    @router.patch("/api/datasets/{name}/rows", dependencies=run)
    def merge_rows(name: Dataset, body: MergedRows) -> DatasetVersion:
        """A new, signed version where rows with a known key are replaced and the others added."""
        with _file(place, body.rows) as file:
            return data.import_file(
                file, name, mode="merge", key=tuple(body.key), message=body.message
            )[0]

    @router.get("/api/datasets/{name}/statistics", dependencies=read)
    def statistics(name: Dataset, version: Version = "latest") -> list[ColumnView]:
        """Nulls, distinct values, range and mean of every column."""
        return list(data.statistics(f"{name}@{version}"))

    @router.get("/api/datasets/{name}/diff", dependencies=read)
    def diff(name: Dataset, old: Version, new: Version = "latest") -> DataDiff:
        """What changed from one version to another."""
        value: DataDiff = plain(data.diff(name, old, new))
        return value

    @router.put("/api/datasets/{name}/tags/{tag}", status_code=204, dependencies=run)
    def tag(name: Dataset, tag: Tag, version: Version = "latest") -> None:
        """Name a version; an existing tag moves."""
        data.tag(f"{name}@{version}", tag)

    @router.delete("/api/datasets/{name}/tags/{tag}", status_code=204, dependencies=run)
    def untag(name: Dataset, tag: Tag) -> None:
        """Remove a tag."""
        data.untag(name, tag)

    @router.post("/api/sql", dependencies=read)
    def sql(body: Sql) -> SqlResult:
        """One read-only query over datasets, jobs, steps, attempts, metrics and artifacts."""
        value: SqlResult = plain(data.sql(body.query, body.limit))
        return value

    return router


@contextmanager
def _file(place: Place, rows: list[dict[str, Any]]) -> Iterator[File]:
    """The rows as a file, as the importer reads them."""
    scratch = place.bench.paths.ensure().cache
    scratch.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = File(folder) / "rows.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield file
