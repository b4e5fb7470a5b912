"""Named datasets with versions, on Delta Lake: import, list, read, restore, tag, remove.

One folder a dataset under ``datasets/<name>``: ``table/`` is the Delta table, whose version numbers
are ours; ``meta.json`` holds what Delta has no place for (tags, published manifests). Writers hold
``lock``; readers never wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.data.reading import data_files, open_rows
from engine.data.rows import local_files
from engine.data.source import BUNDLED, bundled_or
from engine.data.writing import write_rows
from engine.errors import BadInput, Conflict, ModelOpsError, NotFound
from engine.paths import StatePaths
from engine.types.data import DatasetVersion, DatasetView

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from deltalake import DeltaTable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
MODES = ("overwrite", "append", "merge")
_DATA_OPERATIONS = {"WRITE": "overwrite", "MERGE": "merge", "RESTORE": "restore"}


@dataclass(frozen=True)
class Dataset:
    """One dataset of a state directory. Make it with :func:`open_dataset`."""

    name: str
    folder: Path

    @property
    def table_path(self) -> Path:
        return self.folder / "table"

    def exists(self) -> bool:
        """Whether anything was committed; an import that was killed at once leaves a bare log."""
        try:
            with os.scandir(self.table_path / "_delta_log") as entries:
                return any(entry.name.endswith(".json") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def table(self, version: int | None = None) -> DeltaTable:
        """The Delta table at ``version`` (None: the newest).

        Raises:
            NotFound: no such version, or its files were vacuumed.
        """
        from deltalake import DeltaTable  # 60 ms
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return DeltaTable(str(self.table_path), version=version)
        except (TableNotFoundError, DeltaError, OSError) as error:
            raise NotFound(
                f"{self.name} has no version v{version}",
                why=str(error).splitlines()[0],
                hint=f"modelops-tui data show {self.name} lists its versions",
            ) from error

    def dataset(self, version: int | None = None) -> pads.Dataset:
        """Its rows as an Arrow dataset whose fragments stand in the order they were written.

        Raises:
            NotFound: no such version, or its files were vacuumed.
        """
        import pyarrow.dataset as pads

        table = self.table(version)
        actions = table.get_add_actions().to_struct_array().to_pylist() if table else []
        written = {a["path"]: (a["modification_time"], a["path"]) for a in actions}
        data = table.to_pyarrow_dataset(filesystem=local_files(self.table_path))
        fragments = sorted(
            data.get_fragments(), key=lambda f: written.get(os.path.basename(f.path), (0, f.path))
        )
        if not all((self.table_path / fragment.path).exists() for fragment in fragments):
            which = f"v{version}" if version is not None else "the newest version"
            raise NotFound(
                f"the rows of {which} of {self.name} are gone",
                why="its files are missing: a vacuum deletes what only old versions need",
                hint=f"modelops-tui data show {self.name} lists its versions",
            )
        return pads.FileSystemDataset(fragments, data.schema, data.format, data.filesystem)

    # -- versions ---------------------------------------------------------------------------------

    def versions(self) -> tuple[DatasetVersion, ...]:
        """Every version that changed rows, newest first."""
        meta = self.meta()
        found = []
        for entry in self.table().history():
            operation = _DATA_OPERATIONS.get(str(entry.get("operation")))
            if operation is None:
                continue
            number = int(entry["version"])
            known = meta["versions"].get(str(number), {})
            tags = tuple(sorted(t for t, v in meta["tags"].items() if v == number))
            found.append(
                DatasetVersion(
                    name=self.name,
                    version=number,
                    time=entry["timestamp"] / 1000,
                    operation=str(entry.get("modelops.mode") or operation),
                    rows=int(known.get("rows", -1)),
                    size_bytes=int(known.get("size_bytes", 0)),
                    source=str(entry.get("modelops.source") or ""),
                    source_sha256=str(entry.get("modelops.sha256") or ""),
                    tags=tags,
                    manifest=known.get("manifest"),
                    pinned=bool(tags) or bool(known.get("manifest")),
                    message=str(entry.get("modelops.message") or ""),
                )
            )
        return tuple(self._counted(v) for v in found)

    def _counted(self, view: DatasetVersion) -> DatasetVersion:
        """Fill row count and size from the log where a crash kept ``meta.json`` behind."""
        if view.rows >= 0:
            return view
        from dataclasses import replace

        rows, size = measure(self.table(view.version))
        return replace(view, rows=rows, size_bytes=size)

    def latest(self) -> int:
        """Number of the newest version that changed rows.

        Raises:
            NotFound: the dataset holds no version (an import that was killed before its first).
        """
        for entry in self.table().history():
            if entry.get("operation") in _DATA_OPERATIONS:
                return int(entry["version"])
        raise NotFound(f"{self.name} is empty", hint=f"modelops-tui data import FILE {self.name}")

    def resolve(self, selector: str | None) -> int:
        """``latest``, ``v3``, ``3``, a tag, or a date (the newest version not after it).

        Raises:
            NotFound: nothing fits.
        """
        if selector in (None, "", "latest"):
            return self.latest()
        text = str(selector)
        tags = self.meta()["tags"]
        if text in tags:
            return int(tags[text])
        numbers = {v.version: v for v in self.versions()}
        if re.fullmatch(r"v?\d+", text):
            number = int(text.removeprefix("v"))
            if number in numbers:
                return number
            near = ", ".join(f"v{n}" for n in sorted(numbers))
            raise NotFound(
                f"{self.name} has no version v{number}",
                why=f"it has {near}",
                hint=f"modelops-tui data show {self.name} tells what each of them is",
            )
        if _DATE.fullmatch(text):
            return self._by_date(text, tuple(numbers.values()))
        raise NotFound(
            f"{self.name} has no version or tag {text!r}",
            why=f"tags: {', '.join(sorted(tags)) or 'none'}",
            hint="versions are written v3, latest, a tag, or a date such as 2026-01-31",
        )

    def _by_date(self, text: str, versions: tuple[DatasetVersion, ...]) -> int:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadInput(
                f"{text!r} is not a date", why=str(error), hint="2026-01-31 or 2026-01-31T12:00"
            ) from error
        if len(text) == len("2026-01-31"):
            moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
        if moment.tzinfo is None:
            moment = moment.astimezone()
        for version in versions:
            if version.time <= moment.timestamp():
                return version.version
        first = datetime.fromtimestamp(versions[-1].time, UTC).astimezone()
        oldest = first.isoformat(timespec="seconds")
        raise NotFound(
            f"{self.name} did not exist on {text}",
            why=f"its first version: {oldest}",
            hint=f"modelops-tui data show {self.name} lists its versions with their times",
        )

    # -- what Delta has no place for --------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        """Tags and what is known of each version; empty tables where the file is missing."""
        try:
            value: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        except (FileNotFoundError, ValueError):
            value = {}
        return {"tags": {}, "versions": {}, **value}

    def write_meta(self, value: dict[str, Any]) -> None:
        """Replace ``meta.json`` whole (fsync, rename); the caller holds :meth:`writing`."""
        fresh = self.folder / "meta.json.new"
        with fresh.open("w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / "meta.json")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the dataset for one writer.

        Raises:
            Conflict: another process writes or removes it now.
        """
        with self._lock():
            yield

    def _lock(self) -> IO[str]:
        path = self.folder / "lock"
        try:
            lock = path.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # a removal renames the folder with its lock: this one may be of what is gone
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            except OSError:
                lock.close()
                raise
            lock.close()
            raise FileNotFoundError(path)
        except (BlockingIOError, FileNotFoundError) as error:
            raise Conflict(
                f"{self.name} is being written or removed by another process",
                hint="try again after it",
            ) from error

    def record(self, version: int, **fields: Any) -> None:
        """Add what is known of a version to ``meta.json``."""
        meta = self.meta()
        meta["versions"].setdefault(str(version), {}).update(fields)
        self.write_meta(meta)

    def tag(self, tag: str, version: int) -> None:
        """Name a version; an existing tag moves.

        Raises:
            BadInput: a tag that reads as a version number, a date or ``latest``.
        """
        if not NAME.fullmatch(tag) or re.fullmatch(r"v?\d+|latest", tag) or _DATE.fullmatch(tag):
            raise BadInput(
                f"{tag!r} can't be a tag",
                why="tags are lower-case letters, digits, . _ - and no version number or date",
                hint="for example golden, or release-1",
            )
        with self.writing():
            meta = self.meta()
            meta["tags"][tag] = version
            self.write_meta(meta)

    def untag(self, tag: str) -> None:
        """Remove a tag.

        Raises:
            NotFound: no such tag.
        """
        with self.writing():
            meta = self.meta()
            if meta["tags"].pop(tag, None) is None:
                known = ", ".join(sorted(meta["tags"]))
                raise NotFound(
                    f"{self.name} has no tag {tag!r}",
                    hint=f"its tags: {known}" if known else "it has no tag at all",
                )
            self.write_meta(meta)


def check_name(name: str) -> str:
    """``name`` itself when it can name a dataset.

    Raises:
        BadInput: it can't; the reason says which characters may be used.
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            f"{name!r} can't name a dataset",
            why="names are lower-case letters, digits, . _ - (at most 100, no leading mark)",
            hint="modelops-tui data import FILE NAME gives it one",
        )
    return name


def open_dataset(name: str, paths: StatePaths) -> Dataset:
    """The dataset called ``name``.

    Raises:
        NotFound: none; near names are offered.
    """
    dataset = Dataset(name, paths.datasets / name)
    if not NAME.fullmatch(name) or not dataset.exists():
        import difflib

        if name in BUNDLED:
            own = name.replace("/", "-")
            raise NotFound(
                f"{name} comes with the program and has no versions",
                hint=f"modelops-tui data import {name} {own} makes a dataset of it"
                if name != "docs"
                else "modelops-tui rag sync docs makes an index of it",
            )

        near = difflib.get_close_matches(name, dataset_names(paths), 3)
        raise NotFound(
            f"there is no dataset {name!r}",
            why=f"did you mean {', '.join(near)}?" if near else "",
            hint="modelops-tui data list, or data import FILE NAME",
        )
    return dataset


def dataset_names(paths: StatePaths) -> tuple[str, ...]:
    """Names of every dataset, sorted."""
    if not paths.datasets.is_dir():
        return ()
    # a dot: being removed, or left by a removal that was killed
    folders = [f for f in paths.datasets.iterdir() if not f.name.startswith(".")]
    return tuple(sorted(f.name for f in folders if Dataset(f.name, f).exists()))


def views(paths: StatePaths) -> tuple[DatasetView, ...]:
    """Every dataset as a list shows it; one that is removed meanwhile is left out."""
    from deltalake.exceptions import DeltaError

    found = []
    for name in dataset_names(paths):
        dataset = Dataset(name, paths.datasets / name)
        try:
            found.append(view(dataset))
        except (ModelOpsError, DeltaError, OSError):
            if dataset.exists():
                raise
    return tuple(found)


def view(dataset: Dataset) -> DatasetView:
    """The dataset as a list shows it."""
    versions = dataset.versions()
    if not versions:
        return DatasetView(dataset.name, 0, 0, 0, 0, 0.0, (), dataset.meta()["tags"])
    newest = versions[0]
    return DatasetView(
        name=dataset.name,
        latest=newest.version,
        versions=len(versions),
        rows=newest.rows,
        size_bytes=newest.size_bytes,
        updated=newest.time,
        columns=tuple(f.name for f in dataset.table(newest.version).schema().fields),
        tags=dataset.meta()["tags"],
        source=newest.source,
    )


def measure(table: DeltaTable) -> tuple[int, int]:
    """(rows, bytes) of a version, from the table's log."""
    actions = table.get_add_actions().to_struct_array().to_pylist()
    return (
        sum(int(a.get("num_records") or 0) for a in actions),
        sum(int(a["size_bytes"]) for a in actions),
    )


def source_hash(path: Path) -> str:
    """sha256 over the names and bytes of the files behind ``path``."""
    digest = hashlib.sha256()
    for file in data_files(path):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def import_rows(
    source: Path,
    name: str,
    paths: StatePaths,
    *,
    mode: str = "overwrite",
    key: tuple[str, ...] = (),
    message: str = "",
) -> tuple[DatasetVersion, bool]:
    """Make a new version of ``name`` from the rows of ``source``.

    Args:
        source: a data file or a folder of them.
        name: a new or an existing dataset.
        paths: the state directory.
        mode: ``overwrite`` (the version holds these rows), ``append``, or ``merge`` (rows with a
            known ``key`` are replaced, the others added).
        key: columns that identify a row; for ``merge`` only.
        message: kept with the version.

    Returns:
        The version and whether it is new: overwriting with the very source of the newest version
        makes none.

    Raises:
        BadInput: unreadable source, unknown mode, missing or repeated key.
        Conflict: another process writes the dataset.
        OutOfSpace: the disk is full; the dataset stays as it was.
    """
    check_name(name)
    if mode not in MODES:
        raise BadInput(f"{mode!r} is not a mode", why=f"modes: {', '.join(MODES)}")
    if (mode == "merge") != bool(key):
        raise BadInput("a merge needs a key, and only a merge takes one", hint="--key id")
    dataset = Dataset(name, paths.ensure().datasets / name)
    source = bundled_or(source)
    digest = source_hash(source)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    with dataset.writing():
        empty = not dataset.exists() or not dataset.versions()
        if mode == "overwrite" and not empty and _same_source(dataset, digest):
            return dataset.versions()[0], False
        try:
            reader = open_rows(source)
            properties = {
                "modelops.mode": mode,
                "modelops.source": str(source.absolute()),
                "modelops.sha256": digest,
                "modelops.message": message,
            }
            write_rows(dataset.name, dataset.table_path, reader, mode, key, properties)
            number = dataset.latest()
            rows, size = measure(dataset.table(number))
            dataset.record(number, rows=rows, size_bytes=size)
        except BaseException:
            if empty:
                shutil.rmtree(dataset.folder, ignore_errors=True)
            raise
    return dataset.versions()[0], True


def _same_source(dataset: Dataset, digest: str) -> bool:
    newest = dataset.versions()[0]
    return newest.source_sha256 == digest and newest.operation == "overwrite"
