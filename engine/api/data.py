"""Datasets from outside the engine: versions, rows, statistics, SQL, reports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.paths import StatePaths
from engine.types.data import (
    ColumnView,
    DataDiff,
    DatasetVersion,
    DatasetView,
    RowsPage,
    SqlResult,
    VacuumReport,
)

if TYPE_CHECKING:
    from engine.data.versions import Dataset
    from engine.service import Service


class Data:
    """The datasets of one state directory.

    What needs the fine-tuning kind runs in a service process, kept for later calls; close this
    object (or leave the program) and it ends.
    """

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    def import_file(
        self,
        source: Path | str,
        name: str,
        *,
        mode: str = "overwrite",
        key: tuple[str, ...] = (),
        message: str = "",
        publish: bool = True,
    ) -> tuple[DatasetVersion, bool]:
        """Make a new version from a file, a folder or bundled data; signed unless not ``publish``.

        Returns:
            The version, and False where overwriting with the same source made none.

        Raises:
            BadInput, NotFound, Conflict, OutOfSpace: see ``engine.data.versions.import_rows``.
        """
        from engine.data.publish import publish_version
        from engine.data.removal import clear_removed
        from engine.data.versions import import_rows, open_dataset

        clear_removed(self._paths.datasets)
        version, fresh = import_rows(
            Path(source).expanduser(), name, self._paths, mode=mode, key=key, message=message
        )
        if publish:
            publish_version(open_dataset(name, self._paths), version.version, self._paths)
            version = self.version(f"{name}@{version.version}")
        return version, fresh

    def list(self) -> tuple[DatasetView, ...]:
        """Every dataset, by name."""
        from engine.data.versions import views

        return views(self._paths)

    def show(self, name: str) -> DatasetView:
        """One dataset.

        Raises:
            NotFound: no such dataset.
        """
        from engine.data.versions import open_dataset, view

        return view(open_dataset(name, self._paths))

    def versions(self, name: str) -> tuple[DatasetVersion, ...]:
        """The versions of a dataset, newest first."""
        from engine.data.versions import open_dataset

        return open_dataset(name, self._paths).versions()

    def version(self, ref: str) -> DatasetVersion:
        """One version: ``name``, ``name@v3``, ``name@tag``, ``name@2026-01-31``.

        Raises:
            NotFound: no such dataset, version or tag.
        """
        dataset, number = self._open(ref)
        return next(v for v in dataset.versions() if v.version == number)

    def rows(self, ref: str, offset: int = 0, limit: int = 50) -> RowsPage:
        """A page of rows, without loading the version."""
        from engine.data.history import rows_page

        dataset, number = self._open(ref)
        return rows_page(dataset, number, offset, limit)

    def statistics(self, ref: str) -> tuple[ColumnView, ...]:
        """Nulls, distinct values, range and mean of every column."""
        from engine.data.history import statistics

        return statistics(*self._open(ref))

    def diff(
        self,
        name: str,
        old: str,
        new: str = "latest",
        key: tuple[str, ...] = (),
        *,
        limit: int = 5,
        offset: int = 0,
    ) -> DataDiff:
        """What changed from version ``old`` to ``new``, with ``limit`` rows of each kind.

        Raises:
            NotFound: no such dataset or version.
            BadInput: a key column that both versions do not have.
        """
        from engine.data.difference import diff
        from engine.data.versions import open_dataset

        dataset = open_dataset(name, self._paths)
        before, after = dataset.resolve(old), dataset.resolve(new)
        return diff(dataset, before, after, key, limit, offset)

    def restore(self, ref: str, *, publish: bool = True) -> DatasetVersion:
        """A new version with the rows of an older one; signed unless ``publish`` is False."""
        from engine.data.history import restore
        from engine.data.publish import publish_version

        dataset, number = self._open(ref)
        version = restore(dataset, number)
        if publish:
            publish_version(dataset, version.version, self._paths)
            version = self.version(f"{dataset.name}@{version.version}")
        return version

    def tag(self, ref: str, tag: str) -> None:
        """Name a version; an existing tag moves."""
        dataset, number = self._open(ref)
        dataset.tag(tag, number)

    def untag(self, name: str, tag: str) -> None:
        """Remove a tag."""
        from engine.data.versions import open_dataset

        open_dataset(name, self._paths).untag(tag)

    def publish(self, ref: str) -> str:
        """Sign a version; returns its manifest id."""
        from engine.data.publish import publish_version

        dataset, number = self._open(ref)
        return publish_version(dataset, number, self._paths)

    def vacuum(
        self, name: str, retention_hours: int = 168, *, dry_run: bool = True
    ) -> VacuumReport:
        """Delete files only old versions need; tags and lineages keep theirs."""
        from engine.data.history import vacuum
        from engine.data.removal import clear_removed
        from engine.data.versions import open_dataset

        if not dry_run:
            clear_removed(self._paths.datasets)
        return vacuum(open_dataset(name, self._paths), retention_hours, dry_run=dry_run)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Delete a dataset with all versions; a published one needs ``force``."""
        from engine.data.removal import remove

        remove(name, self._paths, force=force)

    def export(self, ref: str, target: Path | str, *, force: bool = False) -> int:
        """Write a version to a file; returns the rows written."""
        from engine.data.history import export

        dataset, number = self._open(ref)
        return export(dataset, number, Path(target).expanduser(), force=force)

    def sql(self, query: str, limit: int = 1_000) -> SqlResult:
        """One read-only query over datasets, jobs, steps, attempts, metrics and artifacts."""
        from engine.data.sql import run_sql

        return run_sql(query, self._paths, limit=limit)

    def sql_into(self, query: str, name: str, *, append: bool = False) -> DatasetVersion:
        """Keep what a query finds as a new, signed version of a dataset.

        Args:
            query: one read; all its rows are kept.
            name: a new or an existing dataset; what the query reads stays as it is.
            append: add the rows to those of the newest version.

        Raises:
            ModelOpsError: what a query or an import raises; nothing was changed.
        """
        from tempfile import TemporaryDirectory

        from engine.data.sql import run_sql
        from engine.data.versions import check_name

        check_name(name)
        self._paths.ensure().cache.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=self._paths.cache) as folder:
            rows = Path(folder) / "query.parquet"
            run_sql(query, self._paths, into=rows)
            mode = "append" if append else "overwrite"
            version, _ = self.import_file(rows, name, mode=mode, message=query)
        return version

    def check(self, ref: str, **options: Any) -> Iterator[dict[str, Any]]:
        """The data report of the fine-tuning kind: its events, then ``{"result": report}``.

        Args:
            ref: a file, ``name``, ``name@version`` or a bundled dataset.
            options: base, format, columns, eval, max_length, on_truncate, loss_on, template. The
                result has ``report``, ``table`` and ``warnings``.
        """
        yield from self._finetune("data_report", data=self._versioned(ref), **options)

    def mask(self, ref: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Which tokens of ``count`` rows from ``start`` the loss sees: ``{"result": {"rows"}}``."""
        yield from self._finetune("mask", data=self._versioned(ref), **options)

    @cached_property
    def _service(self) -> Service:
        from engine.service import Service

        return Service("finetune", self._paths)

    def close(self) -> None:
        """End the service process, where one runs."""
        if "_service" in self.__dict__:
            self._service.close()
            del self.__dict__["_service"]

    def _finetune(self, action: str, **params: Any) -> Iterator[dict[str, Any]]:
        given = {name: value for name, value in params.items() if value is not None}
        yield from self._service.call(action, **given)

    def _versioned(self, ref: str) -> str:
        """``name@latest`` where ``ref`` is the bare name of a dataset."""
        from engine.data.source import BUNDLED

        plainly_a_file = ref in BUNDLED or "@" in ref or Path(ref).expanduser().exists()
        is_dataset = (self._paths.datasets / ref / "table" / "_delta_log").is_dir()
        return ref if plainly_a_file or not is_dataset else f"{ref}@latest"

    def _open(self, ref: str) -> tuple[Dataset, int]:
        from engine.data.versions import open_dataset

        name, _, selector = ref.partition("@")
        dataset = open_dataset(name, self._paths)
        return dataset, dataset.resolve(selector)
