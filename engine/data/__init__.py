"""Rows, formats and dataset versions. The names below are what other packages import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.data.source import DataLocation, resolve_data

if TYPE_CHECKING:
    from engine.paths import StatePaths

__all__ = ["DataLocation", "resolve_data", "resolve_version"]


def resolve_version(ref: str, paths: StatePaths) -> DataLocation:
    """The signed, verified rows of ``name@version`` (a number, a tag, a date or ``latest``).

    The version is published first where it was not yet; the path is one Parquet file.

    Raises:
        NotFound: no such dataset or version.
        IntegrityError: the stored bytes are not what was signed.
    """
    from engine.data.publish import publish_version
    from engine.data.versions import open_dataset
    from engine.registry import Registry

    name, _, selector = ref.rpartition("@")
    dataset = open_dataset(name, paths)
    version = dataset.resolve(selector)
    manifest = publish_version(dataset, version, paths)
    folder = Registry.open(paths).materialize(manifest)
    return DataLocation(folder / "data.parquet", name, f"v{version}", manifest)
