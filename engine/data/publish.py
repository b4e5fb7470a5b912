"""Dataset versions as signed artifacts, so that a lineage can name the very rows of a run."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from engine.data.versions import Dataset
from engine.errors import NotFound
from engine.paths import StatePaths
from engine.types.data import DatasetVersion


def publish_version(dataset: Dataset, version: int, paths: StatePaths) -> str:
    """Sign a version; its rows go into one Parquet file in the order they were written.

    Publishing again returns the first manifest. The version before it is recorded as parent, where
    that one was published.

    Returns:
        The manifest id, ``sha256:<hex>``.

    Raises:
        NotFound: no such version.
    """
    views = {v.version: v for v in dataset.versions()}
    if version not in views:
        raise NotFound(f"{dataset.name} has no version v{version}")
    from engine.registry import Registry

    known = views[version].manifest
    if known:
        return known
    view = views[version]
    older = [v for v in views.values() if v.version < version and v.manifest]
    parent = max(older, key=lambda v: v.version).manifest if older else None
    paths.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.cache, prefix="dataset-") as scratch:
        folder = Path(scratch)
        schema = write_parquet(dataset, version, folder / "data.parquet")
        about = {
            "dataset": dataset.name,
            "version": version,
            "rows": view.rows,
            "operation": view.operation,
            "source_sha256": view.source_sha256,
            "written": datetime.fromtimestamp(view.time, UTC).isoformat(timespec="seconds"),
            "schema": schema,
        }
        (folder / "dataset.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        artifact = Registry.open(paths).publish(
            name=dataset.name,
            artifact_type="dataset",
            files=folder,
            parents=_parents(view, views, parent),
            metrics={"rows": float(view.rows)},
            card=f"# {dataset.name} v{version}\n\n{view.rows} rows, {view.operation} of "
            f"{Path(view.source).name or 'another version'}.\n",
            run={"source": Path(view.source).name, "source_sha256": view.source_sha256},
            version=str(version),
            key=f"dataset/{dataset.name}/v{version}/{about['written']}",
        )
    manifest: str = artifact.manifest
    with dataset.writing():
        dataset.record(version, manifest=manifest)
    return manifest


def _parents(
    view: DatasetVersion, views: dict[int, DatasetVersion], previous: str | None
) -> list[tuple[str, str]]:
    """The newest published version before it, and of a restore the version it came from."""
    parents = [("previous_version", previous)] if previous else []
    origin = views.get(int(view.source.removeprefix("v") or 0)) if _restored(view) else None
    if origin is not None and origin.manifest and origin.manifest != previous:
        parents.append(("restored_version", origin.manifest))
    return parents


def _restored(view: DatasetVersion) -> bool:
    return view.operation == "restore" and view.source.removeprefix("v").isdigit()


def write_parquet(dataset: Dataset, version: int, target: Path) -> list[dict[str, str]]:
    """Write a version to one Parquet file, a batch in memory at a time; returns its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = dataset.dataset(version)
    schema = rows.schema.remove_metadata()
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in rows.to_batches(batch_size=8_192, fragment_readahead=1):
            if batch.num_rows:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return [{"name": f.name, "type": str(f.type)} for f in schema]
