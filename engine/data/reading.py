"""Files of rows to Arrow, for the versioned store: JSON, JSONL, CSV, Parquet and text.

Values keep the types the file gives them: a text that looks like a date stays a text. What the rows
mean for training (formats, templates) is ``engine.data.formats``'s business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 5_000
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
_HINT = f"known file types: {', '.join(SUFFIXES)}"


def open_rows(path: Path) -> pa.RecordBatchReader:
    """A stream of record batches with one schema that fits every row of ``path``.

    ``path`` is a file or a folder of files of these types (read in the order of their names). A
    JSON or CSV source is read twice: once for its types, once for its values; memory holds one
    batch.

    Raises:
        NotFound: no such file.
        BadInput: unknown type, broken syntax (with the line), or columns of mixed types.
    """
    import pyarrow as pa

    files = data_files(path)
    if all(f.suffix.lower() == ".parquet" for f in files):
        return _parquet(files)
    schema = _infer(files)
    return pa.RecordBatchReader.from_batches(schema, _batches(files, schema))


def data_files(path: Path) -> list[Path]:
    """The files behind ``path``: itself, or the data files below a folder, sorted.

    Raises:
        NotFound: nothing there.
        BadInput: a file type we don't read.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist", hint="give a file or a folder of data files")
    if path.is_dir():
        found = sorted(
            f
            for f in path.rglob("*")
            if f.suffix.lower() in SUFFIXES
            and f.is_file()
            and not any(part.startswith(".") for part in f.relative_to(path).parts)
        )
        if not found:
            raise NotFound(f"{path} holds no data file", hint=_HINT)
        return found
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(
            f"{path.name} is not a type of data file we read",
            why=f"its ending is {path.suffix or 'missing'}",
            hint=_HINT,
        )
    return [path]


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of one file as dictionaries, in order, without loading the file.

    Raises:
        BadInput: broken syntax, with the line.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    elif suffix == ".json":
        yield from _json_array(path)
    elif suffix in (".csv", ".tsv"):
        yield from _csv(path, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        for batch in _parquet([path]):
            yield from batch.to_pylist()
    elif suffix == ".md":
        yield {"text": _text(path), "source": path.name}
    else:
        for line in _text(path).splitlines():
            if line.strip():
                yield {"text": line}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path.name} is not UTF-8 text",
            why=f"byte {error.start} is {error.object[error.start]:#04x}",
            hint="convert it first: iconv -f cp1252 -t utf-8",
        ) from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path.name}:{number} is not valid JSON", why=str(error)) from error
            yield _as_row(row, f"{path.name}:{number}")


def _json_array(path: Path) -> Iterator[dict[str, Any]]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        hint = "a file with one JSON object a line must be named .jsonl"
        raise BadInput(f"{path.name} is not valid JSON", why=str(error), hint=hint) from error
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = lists[0] if len(lists) == 1 and lists[0] and len(value) == 1 else [value]
    if not isinstance(value, list):
        raise BadInput(f"{path.name} is not a list of objects", why=f"it is {_kind(value)}")
    for number, row in enumerate(value, 1):
        yield _as_row(row, f"{path.name}, item {number}")


def _as_row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{place} is not an object", why=f"it is {_kind(value)}")
    if not value:
        raise BadInput(f"{place} is an empty object", hint="remove the row")
    if "" in value:
        # SQL has no way to name it
        raise BadInput(f"{place} has a column without a name", hint="name it or leave it out")
    return value


def _csv(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    """Numbers become numbers only where every value of the column in the file is one."""
    import csv
    import io

    text = _text(path)
    csv.field_size_limit(2**31 - 1)
    numeric = _numeric_columns(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    names = reader.fieldnames or []
    if len(set(names)) != len(names) or any(not (n or "").strip() for n in names):
        raise BadInput(f"{path.name}: the header repeats or misses a name", why=", ".join(names))
    for row in reader:
        if None in row or None in row.values():
            raise BadInput(
                f"{path.name}:{reader.line_num} does not have {len(names)} fields",
                why="the header names " + ", ".join(names),
                hint='quote fields that hold the delimiter: "a, b"',
            )
        yield {
            name: (None if value == "" else numeric[name](value)) if name in numeric else value
            for name, value in row.items()
        }


def _numeric_columns(rows: Iterable[dict[str, Any]]) -> dict[str, type[int] | type[float]]:
    fits: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds = fits.setdefault(name, {int, float})
            if not isinstance(value, str) or value == "" or not kinds:
                continue
            leading_zero = len(value) > 1 and value.lstrip("-").startswith("0") and "." not in value
            for kind in tuple(kinds):
                try:
                    kind(value)
                except ValueError:
                    kinds.discard(kind)
            if leading_zero or value != value.strip() or "_" in value:
                kinds.clear()
    return {name: int if int in kinds else float for name, kinds in fits.items() if kinds}


def _parquet(files: list[Path]) -> pa.RecordBatchReader:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        handles = [pq.ParquetFile(f) for f in files]
        schema = pa.unify_schemas([h.schema_arrow for h in handles], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise BadInput("the Parquet source can't be read", why=str(error)) from error
    target = pa.schema([pa.field(f.name, storable(f.type)) for f in schema])

    def stream() -> Iterator[pa.RecordBatch]:
        for handle in handles:
            for batch in handle.iter_batches(BATCH_ROWS):
                yield _cast(batch, target)

    return pa.RecordBatchReader.from_batches(target, stream())


def _cast(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = []
    for field in target:
        at = batch.schema.get_field_index(field.name)
        columns.append(
            pa.nulls(batch.num_rows, field.type) if at < 0 else batch.column(at).cast(field.type)
        )
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _chunks(files: list[Path]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    done = 0
    for file in files:
        rows = iterate_rows(file)
        while chunk := list(islice(rows, BATCH_ROWS)):
            yield done, chunk
            done += len(chunk)


def _infer(files: list[Path]) -> pa.Schema:
    import pyarrow as pa

    schema: pa.Schema | None = None
    for start, chunk in _chunks(files):
        names = list(dict.fromkeys(name for row in chunk for name in row))
        fields = []
        for name in names:
            values = [row.get(name) for row in chunk]
            try:
                fields.append(pa.field(name, pa.array(values).type))
            except (pa.ArrowException, OverflowError) as error:
                raise _mixed(name, values, start, str(error)) from error
        try:
            part = pa.schema(fields)
            schema = (
                pa.unify_schemas([schema, part], promote_options="permissive") if schema else part
            )
        except pa.ArrowException as error:
            raise BadInput(
                f"columns change their type after row {start + 1}", why=str(error), hint=_MIXED
            ) from error
    if schema is None:
        raise BadInput(f"{files[0].name} holds no row", hint="an empty dataset can't be imported")
    return pa.schema([pa.field(f.name, storable(f.type)) for f in schema])


_MIXED = "make the column one type, for example all text"


def _mixed(name: str, values: list[Any], start: int, reason: str) -> BadInput:
    first = next((v for v in values if v is not None), None)
    for number, value in enumerate(values, start + 1):
        if value is not None and _kind(value) != _kind(first):
            why = f"row {number} is {_kind(value)}, the rows before are {_kind(first)}"
            return BadInput(f"column {name!r} mixes types", why=why, hint=_MIXED)
    return BadInput(f"column {name!r} mixes types", why=reason, hint=_MIXED)


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true/false", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else "null")


def _batches(files: list[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    for start, chunk in _chunks(files):
        columns = []
        for field in schema:
            values = [row.get(field.name) for row in chunk]
            if pa.types.is_string(field.type):
                values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            try:
                columns.append(pa.array(values, type=field.type))
            except (pa.ArrowException, OverflowError) as error:
                raise _mixed(field.name, values, start, str(error)) from error
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def storable(kind: pa.DataType) -> pa.DataType:
    """The nearest type that Delta Lake stores (no unsigned, dictionary, null or empty struct).

    A column that is null in every row becomes text, as does an object without keys (as JSON).
    """
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return storable(kind.value_type)
    if types.is_struct(kind):
        fields = [pa.field(f.name, storable(f.type)) for f in kind]
        return pa.struct(fields) if fields else pa.string()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(storable(kind.value_type))
    if types.is_null(kind) or types.is_time(kind) or types.is_large_string(kind):
        return pa.string()
    if types.is_unsigned_integer(kind):
        wider = {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}
        return wider.get(kind.bit_width, pa.decimal128(20, 0))
    if types.is_float16(kind):
        return pa.float32()
    if types.is_timestamp(kind):
        return pa.timestamp("us", tz=kind.tz and "UTC")
    if types.is_duration(kind):
        return pa.int64()
    return kind
