"""What the Data screen shows: rows as they are, versions, statistics, the loss mask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from screens.prose import paragraph, table, wrapped
from screens.text import Line, number, printable, size, zoned_time

#: What a column of a table may be wide at most before rows stand below one another.
_WIDEST = 60


def raw(value: Any) -> str:
    """A value as the data has it: whole figures, lists and objects as JSON, ``null`` for none."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def row_lines(shown: Mapping[str, Any], width: int) -> list[Line]:
    """A page of rows: side by side where all has room, else field by field. Nothing is cut."""
    rows, columns = shown["rows"], list(shown["columns"])
    first, total = int(shown["offset"]) + 1, int(shown["total"])
    if not rows:
        return [[(f"no row from {first} on; there are {number(total)}", "dim")]]
    last = first + len(rows) - 1
    told = f"rows {number(first)} to {number(last)} of {number(total)}"
    keys = "  > further, < back" if total > len(rows) else ""
    lines: list[Line] = [[(told, "bold"), (f"  {shown['ref']}{keys}", "dim")]]
    cells = [[raw(row.get(name)) for name in columns] for row in rows]
    if _side_by_side(columns, cells, width):
        body = [[row.get(name) for name in columns] for row in rows]
        return [*lines, *table(columns, body, 0, shown=raw)]
    for place, (row, texts) in enumerate(zip(rows, cells, strict=True), first):
        lines += [[], [(f"row {number(place)}", "accent")]]
        for name, text in zip(columns, texts, strict=True):
            lines += _field(name, row.get(name), text, width)
    return lines


def _side_by_side(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    widths = [
        max(cell_len(text) for text in (name, *(row[i] for row in cells)))
        for i, name in enumerate(columns)
    ]
    flat = all("\n" not in text for row in cells for text in row)
    return flat and max(widths) <= _WIDEST and sum(widths) + 2 * len(widths) <= width


def _field(name: str, value: Any, text: str, width: int) -> list[Line]:
    """A column of one row: beside its name where there is room, else below it."""
    if _is_talk(value):
        lines: list[Line] = [[(f"  {name}", "key")]]
        for turn in value:
            who = str(turn.get("role", turn.get("from", "?")))
            said = raw(turn.get("content", turn.get("value")))
            rest = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "value")}
            lines.append([(f"    {who}", "head")])
            lines += _whole(said, width, "      ")
            lines += _whole(raw(rest), width, "      ", "dim") if any(rest.values()) else []
        return lines
    if "\n" not in text and cell_len(name) + cell_len(text) + 4 <= width:
        return [[(f"  {name}  ", "key"), (printable(text), "")]]
    return [[(f"  {name}", "key")], *_whole(text, width, "    ")]


def _whole(text: str, width: int, indent: str, style: str = "") -> list[Line]:
    """All of a text: words wrapped, but lines whose spaces matter are only cut at the edge."""
    lines: list[Line] = []
    for part in text.split("\n"):
        if part.startswith((" ", "\t")) or "  " in part:
            room = max(10, width - len(indent))
            lines += [[(indent, ""), *line] for line in wrapped([(part, style)], room)]
        else:
            lines += paragraph(part, width, style, indent)
    return lines


def _is_talk(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and {"role", "from"} & set(turn) for turn in value)
    )


def column_lines(columns: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """Schema and statistics: one line a column, its range below it where it is long."""
    names = ("column", "type", "nulls", "distinct", "mean")
    rows = [
        [column["name"], column["type"], column["nulls"], column["distinct"], column["mean"]]
        for column in columns
    ]
    lines = table(names, rows, width, "key")
    ranged = [column for column in columns if column["minimum"] is not None]
    for column in ranged:
        lines += [[], [(str(column["name"]), "key"), ("  from", "dim")]]
        lines += paragraph(str(column["minimum"]), width, "", "  ")
        lines += [[("  to", "dim")], *paragraph(str(column["maximum"]), width, "", "  ")]
    return lines


def version_table(versions: Sequence[dict[str, Any]], width: int) -> list[Line]:
    """Versions of a dataset, newest first; what was said at an import below."""
    lines = table(
        ("version", "made", "by", "rows", "size", "tags", "signed", "source"),
        [
            (
                f"v{told['version']}",
                zoned_time(told["time"]),
                told["operation"],
                told["rows"],
                size(told["size_bytes"]),
                " ".join(told["tags"]),
                "yes" if told["manifest"] else "no",
                Path(told["source"]).name,
            )
            for told in versions
        ],
        width,
        "key",
    )
    said = [told for told in versions if told.get("message")]
    lines += [[]] if said else []
    for told in said:
        lines += paragraph(f"v{told['version']}: {told['message']}", width, "dim")
    return lines


def diff_lines(found: Mapping[str, Any], width: int, *, offset: int = 0) -> list[Line]:
    """What ``data diff --json`` tells: the counts, the columns, a page of rows from ``offset``."""
    counts = [(found["added"], "added", "good"), (found["removed"], "removed", "bad")]
    counts += [(found["changed"], "changed", "warn")] if found["key"] else []
    head: Line = [(f"v{found['old']} -> v{found['new']}: ", "bold")]
    for place, (count, word, style) in enumerate(counts):
        head += [(", ", "")] if place else []
        head.append((f"{number(count)} {word}", style if count else "dim"))
    lines: list[Line] = [head]
    signs = (("+", "columns_added", "good"), ("-", "columns_removed", "bad"))
    for sign, name, style in signs:
        lines += [[(f"{sign} column {column}", style)] for column in found[name]]
    for column, before, after in found["types_changed"]:
        lines += paragraph(f"~ column {column}: {before} -> {after}", width, "warn")
    for row in found["changed_rows"]:
        key = " ".join(f"{name}={raw(value)}" for name, value in row["key"].items())
        lines += [[], *paragraph(f"~ {key}", width, "warn")]
        for name, (before, after) in row["changes"].items():
            lines.append([(f"  {name}", "key")])
            lines += [*_whole(raw(before), width, "  - "), *_whole(raw(after), width, "  + ")]
    for sign, name, style in (("-", "removed_rows", "bad"), ("+", "added_rows", "good")):
        for row in found[name]:
            lines.append([])
            for place, (column, value) in enumerate(row.items()):
                mark = f"{sign} " if place == 0 else "  "
                text = raw(value)
                if "\n" not in text and cell_len(column) + cell_len(text) + 4 <= width:
                    lines.append([(mark, style), (f"{column}  ", "key"), (printable(text), "")])
                else:
                    lines.append([(mark, style), (column, "key")])
                    lines += _whole(text, width, "    ")
    shown = sum(len(found[name]) for name in ("changed_rows", "removed_rows", "added_rows"))
    whole = found["changed"] + found["removed"] + found["added"]
    if not whole and len(lines) == 1:
        lines.append([("the rows are the same", "dim")])
    if shown < whole:
        where = f", from row {number(offset + 1)} of each kind" if offset else ""
        told = f"{number(shown)} of {number(whole)} are on this page{where}"
        lines[1:1] = [[(told, "dim")]]
    return lines


def mask_lines(row: dict[str, Any], start: int, base: str, width: int) -> list[Line]:
    """The text of a row: what is learned in colour and marked, the rest dim."""
    if row.get("problem"):
        return paragraph(str(row["problem"]), width, "bad")
    tokens = row.get("tokens", ())
    learned = sum(bool(flag) for _, flag in tokens)
    head: Line = [
        (f"row {start + 1}  ", "bold"),
        (f"{learned} of {len(tokens)} tokens are learned", "good"),
        (f"  {base}  > next row", "dim"),
    ]
    notes: list[Line] = []
    if row.get("cut"):
        notes.append([("it is cut: longer than the model's length", "warn")])
    if row.get("ends") is False:
        notes.append([("it loses its end token: the model would not learn to stop", "warn")])
    lines: list[Line] = [head, *notes, []]
    current: Line = []
    used = 0
    for text, flag in tokens:
        # [ ] as well as colour: a mask must be readable without it
        for place, piece in enumerate(str(text).split("\n")):
            if place or used + len(piece) > width:
                lines.append(current)
                current, used = [], 0
            current.append((piece, "good+bold" if flag else "dim"))
            used += len(piece)
    return [*lines, current]
