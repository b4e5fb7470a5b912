"""Rows of JSON, JSONL, CSV, TSV, Parquet, Delta and plain text files, one at a time, each numbered.

A row's number is what a person finds in an editor: the line in JSONL and CSV, else a count from 1.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, NotFound

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
_CONTAINERS = ("data", "rows", "train", "examples", "items")
_BATCH = 1024


@dataclass(frozen=True)
class Row:
    """One record of a data file."""

    number: int
    values: dict[str, Any]


def read_rows(path: Path, version: str | None = None) -> Iterator[Row]:
    """Iterate over the rows of a file or Delta table without loading it whole (JSON arrays are).

    Args:
        path: the file, or the folder of a Delta table.
        version: of a Delta table: the version to read (default: the newest).

    Raises:
        NotFound: there is no such file.
        BadInput: unknown format, not UTF-8, or a row that can't be parsed, named by its number.
    """
    if path.is_dir():
        yield from _delta(path, version)
        return
    if not path.exists():
        raise NotFound(f"there is no data file {path}")
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty", why="it has 0 bytes")
    suffix = path.suffix.lower()
    reader = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".txt": _text,
        ".md": _text,
    }.get(suffix)
    if reader is None:
        raise BadInput(
            f"{path.name} is in no format that rows can be read from",
            why=f"its ending is {suffix or 'missing'}",
            hint="known endings: " + ", ".join(SUFFIXES),
        )
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 text",
            why=f"byte {error.object[error.start]:#04x} at position {error.start}",
            hint="convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW",
        ) from error


def _jsonl(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise BadInput(
                    f"{path}:{number}: not JSON",
                    why=f"{error}: {line.strip()[:60]!r}",
                    hint="each line of a .jsonl file is one JSON object",
                ) from error
            yield Row(number, _object(value, path, number))


def _json(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except ValueError as error:
        lines = "is it JSON Lines? name it .jsonl" if "Extra data" in str(error) else ""
        raise BadInput(f"{path} is not JSON", why=str(error), hint=lines) from error
    if isinstance(value, dict):
        held = [key for key in _CONTAINERS if isinstance(value.get(key), list)]
        if not held:
            raise BadInput(
                f"{path} holds one object, not a list of rows",
                why=f"its keys are {', '.join(list(value)[:8])}",
                hint="a .json data file is an array of objects",
            )
        value = value[held[0]]
    if not isinstance(value, list):
        raise BadInput(f"{path} holds a {type(value).__name__}, not an array of objects")
    for number, item in enumerate(value, 1):
        yield Row(number, _object(item, path, number))


def _object(value: object, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(
            f"{path}: row {number} is no object",
            why=f"it is a {type(value).__name__}: {str(value)[:60]!r}",
        )
    return value


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(1 << 28)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        if not reader.fieldnames:
            raise BadInput(f"{path} has no header line")
        for values in reader:
            number = reader.line_num
            if None in values:
                raise BadInput(
                    f"{path}:{number}: more fields than the header has",
                    why=f"the header names {len(reader.fieldnames)} columns",
                    hint="a field that holds commas or line breaks must be in double quotes",
                )
            # a short row's missing fields are None: the formats report them by key
            yield Row(number, {key: value for key, value in values.items() if value is not None})


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # 0.1 s
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise BadInput(f"{path} is no Parquet file", why=str(error)) from error
    yield from _batches(file.iter_batches(batch_size=_BATCH))


def _batches(batches: Any) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            # tables have every column in every row: a null is a key this row does not have
            yield Row(number, {key: v for key, v in values.items() if v is not None})


def local_files(folder: Path) -> FileSystem:
    """The files of a table, read by Arrow itself.

    Without it Arrow's threads read through Python objects of ``deltalake``, and
    ``Scanner.to_reader`` (pyarrow 26), which keeps the GIL while it takes the scanner's lock, can
    meet a reading thread that holds that lock and waits for the GIL: the process stands still.
    """
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    return SubTreeFileSystem(str(folder), LocalFileSystem())


def _delta(folder: Path, version: str | None) -> Iterator[Row]:
    if not (folder / "_delta_log").is_dir():
        raise BadInput(
            f"{folder} is a folder without a data table",
            hint="name one file; several files become one dataset with: modelops-tui data import",
        )
    from deltalake import DeltaTable  # 0.2 s

    number = version.lstrip("v") if version else ""
    table = DeltaTable(str(folder), version=int(number) if number.isdigit() else None)
    data = table.to_pyarrow_dataset(filesystem=local_files(folder))
    yield from _batches(data.to_batches(batch_size=_BATCH))


def _text(path: Path) -> Iterator[Row]:
    yield Row(1, {"text": path.read_text(encoding="utf-8-sig")})
