"""What the CLI and the screens ask of a service process: data report, loss mask, rows as read.

Parameters shared by all: ``data`` (reference), ``base`` (model reference), and optionally
``format``, ``columns``, ``max_length``, ``loss_on``, ``on_truncate``, ``template``, ``eval``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from typing import Any

from engine.data.duplicates import DuplicateIndex
from engine.data.formats import FORMATS, Example, detect, read_examples
from engine.data.masks import Encoder, TemplateProblem
from engine.data.report import DataReport, encode_all
from engine.data.rows import read_rows
from engine.data.source import DataLocation, resolve_data
from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths

Emit = Callable[[dict[str, Any]], None]

DEFAULT_BASE = "smollm2-135m-instruct"
_TOLD_EVERY = 2000


@lru_cache(maxsize=4)
def _tokenizer(base: str, template: str | None, paths: StatePaths) -> Any:
    from recipes.finetune.session import prepare_tokenizer
    from recipes.loading import load_tokenizer

    location = resolve_model(base, paths)
    tokenizer = load_tokenizer(location, paths=paths)
    prepare_tokenizer(tokenizer, template, location.name)
    return tokenizer


def _encoder(params: dict[str, Any], paths: StatePaths) -> Encoder:
    base = str(params.get("base") or DEFAULT_BASE)
    return Encoder(
        _tokenizer(base, params.get("template"), paths), str(params.get("loss_on") or "assistant")
    )


def _examples(params: dict[str, Any], location: DataLocation) -> Iterator[Example]:
    format_name = str(params.get("format") or "auto")
    if format_name != "auto" and format_name not in FORMATS:
        raise BadInput(
            f"there is no data format {format_name!r}", why=f"known: {', '.join(FORMATS)}"
        )
    rows = read_rows(location.path, location.version)
    return read_examples(rows, format_name, params.get("columns") or {}, location.name)


def _length(params: dict[str, Any]) -> int:
    value = params.get("max_length") or 1024
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise BadInput(f"max_length must be a number of tokens, it is {value!r}")
    return value


def data_report(params: dict[str, Any], emit: Emit, paths: StatePaths) -> dict[str, Any]:
    """The data report of ``data`` for ``base``: ``{"report", "table", "warnings"}``.

    Emits ``{"done": rows}`` now and then. A preference row's tokens are those of its
    longer answer.
    """
    location = resolve_data(str(params["data"]), paths)
    report = DataReport(
        location.name,
        max_length=_length(params),
        on_truncate="drop" if params.get("on_truncate") == "fail" else _policy(params),
    )
    held: Iterator[Example] = iter(())
    if params.get("eval"):
        held = _examples(params, resolve_data(str(params["eval"]), paths))
    encoder = _encoder(params, paths)
    counted = _counting(_examples(params, location), report, emit)
    for _ in encode_all(counted, encoder, report, index=DuplicateIndex(), held_out=held):
        pass
    return {"report": report.to_json(), "table": report.table(), "warnings": report.warnings()}


def _policy(params: dict[str, Any]) -> str:
    policy = str(params.get("on_truncate") or "drop")
    if policy not in ("drop", "truncate"):
        raise BadInput(f"on_truncate has no choice {policy!r}", why="drop, truncate or fail")
    return policy


def _counting(examples: Iterator[Example], report: DataReport, emit: Emit) -> Iterator[Example]:
    for done, example in enumerate(examples, 1):
        if done == 1:
            report.format = example.shape
        if done % _TOLD_EVERY == 0:
            emit({"done": done})
        yield example


def mask(params: dict[str, Any], emit: Emit, paths: StatePaths) -> dict[str, Any]:
    """What is learned of some rows, token by token.

    ``start`` (first row shown, from 0) and ``count`` choose them. Each row is ``{"number",
    "tokens": [[text, learned], ...], "length", "cut", "ends", "problem"}``; the texts joined give
    the row's text.
    """
    location = resolve_data(str(params["data"]), paths)
    start, count = int(params.get("start") or 0), int(params.get("count") or 5)
    encoder = _encoder(params, paths)
    rows = []
    for example in islice(_examples(params, location), start, start + count):
        row: dict[str, Any] = {"number": example.number, "tokens": [], "problem": ""}
        try:
            encoded = encoder.encode(example, _length(params))
        except TemplateProblem as error:
            row["problem"] = str(error)
        else:
            row |= {"length": encoded.length, "cut": encoded.truncated, "ends": encoded.ends}
            row["tokens"] = pieces(encoder.tokenizer, encoded.ids, encoded.trained)
        rows.append(row)
        emit({"done": len(rows)})
    return {"rows": rows, "base": str(params.get("base") or DEFAULT_BASE)}


def pieces(tokenizer: Any, ids: list[int], trained: list[bool]) -> list[list[Any]]:
    """``[text, learned]`` per token; a character of several tokens is shown with its last one."""
    found: list[list[Any]] = []
    waiting: list[int] = []
    for token, flag in zip(ids, trained, strict=True):
        waiting.append(token)
        text = tokenizer.decode(
            waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if text.endswith("\ufffd") and len(waiting) < 4:
            found.append(["", flag])
            continue
        found.append([text, flag])
        waiting = []
    return found


def preview(params: dict[str, Any], emit: Emit, paths: StatePaths) -> dict[str, Any]:
    """The first rows as they are and as they are understood (no tokenizer is loaded).

    Returns ``{"format", "rows": [{"number", "values", "example"}], "name"}``.
    """
    location = resolve_data(str(params["data"]), paths)
    count = int(params.get("count") or 20)
    rows = list(islice(read_rows(location.path, location.version), count))
    format_name = str(params.get("format") or "auto")
    examples = list(read_examples(rows, format_name, params.get("columns") or {}, location.name))
    found = detect(rows[0].values) if format_name == "auto" else FORMATS[format_name]
    return {
        "name": location.name,
        "format": found.name if found else format_name,
        "rows": [
            {"number": row.number, "values": row.values, "example": asdict(example)}
            for row, example in zip(rows, examples, strict=True)
        ],
    }
