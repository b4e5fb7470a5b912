"""Datasets, their versions, pages of rows and SQL results as the screens and the CLI see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DatasetView:
    """One dataset, described by its newest version."""

    name: str
    latest: int
    versions: int
    rows: int
    size_bytes: int
    """Bytes of the newest version's files (older versions may hold more)."""
    updated: float
    """Seconds since the epoch of the newest version."""
    columns: tuple[str, ...]
    tags: dict[str, int] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a dataset; ``version`` is the version number of its Delta table."""

    name: str
    version: int
    time: float
    operation: str
    """``overwrite``, ``append``, ``merge`` or ``restore``."""
    rows: int
    size_bytes: int
    source: str
    """File it was imported from, or ``v<n>`` for a restore."""
    source_sha256: str
    tags: tuple[str, ...] = ()
    manifest: str | None = None
    """Manifest id of the signed artifact, once the version was published."""
    pinned: bool = False
    """True when a tag or a lineage keeps its files from ``vacuum``."""
    message: str = ""
    """What was said at its import."""


@dataclass(frozen=True)
class ColumnView:
    """One column with its statistics; ``None`` where a statistic does not apply to the type."""

    name: str
    type: str
    nulls: int
    distinct: int | None
    minimum: str | None
    maximum: str | None
    mean: float | None = None


@dataclass(frozen=True)
class RowsPage:
    """``rows`` from ``offset`` of a version, as JSON values."""

    name: str
    version: int | None
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    offset: int
    total: int
    schema: tuple[tuple[str, str], ...] = ()
    """(column, type)."""


@dataclass(frozen=True)
class DataDiff:
    """What changed between two versions.

    With a key, ``changed`` counts rows whose key stayed and whose values differ; without one, a
    changed row counts as one removed and one added.
    """

    name: str
    old: int
    new: int
    key: tuple[str, ...]
    added: int
    removed: int
    changed: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    types_changed: tuple[tuple[str, str, str], ...]
    """(column, old type, new type)."""
    added_rows: tuple[dict[str, Any], ...] = ()
    removed_rows: tuple[dict[str, Any], ...] = ()
    changed_rows: tuple[dict[str, Any], ...] = ()
    """Samples: ``{"key": {column: value}, "changes": {column: [old, new]}}``."""


@dataclass(frozen=True)
class SqlResult:
    """Rows of a query; ``truncated`` when there were more than the asked limit."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    seconds: float


@dataclass(frozen=True)
class VacuumReport:
    """Files a vacuum removed (or would remove), and the versions it kept and why."""

    name: str
    files: int
    size_bytes: int
    kept: dict[int, str]
    dry_run: bool
