"""``/api/datasets`` and ``/api/sql``: versions, rows, statistics, differences."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from engine.types.data import (
    ColumnView,
    DataDiff,
    DatasetVersion,
    DatasetView,
    RowsPage,
    SqlResult,
    VacuumReport,
)
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


class Restored(Given):
    """The version whose rows come back."""

    model_config = body({"version": "v1"})
    version: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$")]


class Vacuuming(Given):
    """What may go."""

    model_config = body({"older_than_hours": 168, "apply": False})
    older_than_hours: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] = 168
    apply: bool = False
    """Without it nothing is deleted: the answer tells what would be."""


class Signed(BaseModel):
    """The artifact of a version."""

    manifest: str


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
    def remove(name: Dataset, force: bool = False) -> None:
        """Delete a dataset with all its versions; one with signed versions needs `force`.

        What was signed stays in the registry.
        """
        data.remove(name, force=force)

    @router.get("/api/datasets/{name}/versions", dependencies=read)
    def versions(name: Dataset) -> list[DatasetVersion]:
        """Its versions, newest first."""
        return list(data.versions(name))

    _rows(router, place)

    @router.get("/api/datasets/{name}/statistics", dependencies=read)
    def statistics(name: Dataset, version: Version = "latest") -> list[ColumnView]:
        """Nulls, distinct values, range and mean of every column."""
        return list(data.statistics(f"{name}@{version}"))

    @router.get("/api/datasets/{name}/diff", dependencies=read)
    def diff(
        name: Dataset,
        old: Version,
        new: Version = "latest",
        key: Annotated[list[Column] | None, Query(max_length=16)] = None,
        limit: Limit = 5,
        offset: Offset = 0,
    ) -> DataDiff:
        """What changed between versions; with `key`, rows are paired by these columns."""
        found = data.diff(name, old, new, tuple(key or ()), limit=limit, offset=offset)
        value: DataDiff = plain(found)
        return value

    @router.put("/api/datasets/{name}/tags/{tag}", status_code=204, dependencies=run)
    def tag(name: Dataset, tag: Tag, version: Version = "latest") -> None:
        """Name a version; an existing tag moves."""
        data.tag(f"{name}@{version}", tag)

    @router.delete("/api/datasets/{name}/tags/{tag}", status_code=204, dependencies=run)
    def untag(name: Dataset, tag: Tag) -> None:
        """Remove a tag."""
        data.untag(name, tag)

    _versions(router, place)

    @router.post("/api/sql", dependencies=read)
    def sql(body: Sql) -> SqlResult:
        """One read-only query over datasets, jobs, steps, attempts, metrics and artifacts."""
        value: SqlResult = plain(data.sql(body.query, body.limit))
        return value

    return router


def _rows(router: APIRouter, place: Place) -> None:
    data, gate = place.bench.data, place.gate
    read, run = [gate.needs("read")], [gate.needs("run")]

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


def _versions(router: APIRouter, place: Place) -> None:
    data, gate = place.bench.data, place.gate
    run, admin = [gate.needs("run")], [gate.needs("admin")]

    @router.post("/api/datasets/{name}/restore", status_code=201, dependencies=run)
    def restore(name: Dataset, body: Restored) -> DatasetVersion:
        """Make a new, signed version with the rows of an older one."""
        return data.restore(f"{name}@{body.version}")

    @router.post("/api/datasets/{name}/sign", dependencies=run)
    def sign(name: Dataset, version: Version = "latest") -> Signed:
        """The signed artifact of a version, made where there was none."""
        return Signed(manifest=data.publish(f"{name}@{version}"))

    @router.post("/api/datasets/{name}/vacuum", dependencies=admin)
    def vacuum(name: Dataset, body: Vacuuming) -> VacuumReport:
        """Delete files only old versions need; tagged and signed versions keep theirs."""
        return data.vacuum(name, body.older_than_hours, dry_run=not body.apply)

    @router.get(
        "/api/datasets/{name}/export",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": {}}, "description": "The rows."}},
        dependencies=[gate.needs("read")],
    )
    def export(
        name: Dataset,
        version: Version = "latest",
        format: Literal["jsonl", "csv", "parquet"] = "jsonl",  # noqa: A002  the query's own word
    ) -> Response:
        """A version as one file."""
        with tempfile.TemporaryDirectory(dir=_scratch(place)) as folder:
            written = File(folder) / f"{name}.{format}"
            data.export(f"{name}@{version}", written)
            # its name goes at once: a client that leaves, or a kill, leaves nothing behind
            file = written.open("rb")
        return StreamingResponse(
            _pieces(file),
            media_type="application/octet-stream",
            headers={
                "content-length": str(os.fstat(file.fileno()).st_size),
                "content-disposition": f'attachment; filename="{written.name}"',
            },
        )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(1 << 18):
            yield piece


def _scratch(place: Place) -> File:
    scratch = place.bench.paths.ensure().cache
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


@contextmanager
def _file(place: Place, rows: list[dict[str, Any]]) -> Iterator[File]:
    """The rows as a file, as the importer reads them."""
    with tempfile.TemporaryDirectory(dir=_scratch(place)) as folder:
        file = File(folder) / "rows.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield file
