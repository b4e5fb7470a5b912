"""Lines for the panes: headings, facts, tables and paragraphs, as plain data (no Textual)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size

from engine.api.charts import scatter
from screens.text import Line, number, printable


def heading(text: str) -> list[Line]:
    """A heading with an empty line above it."""
    return [[], [(text, "head")]]


def facts(pairs: Iterable[tuple[str, object]], width: int = 14) -> list[Line]:
    """``name  value`` lines; those without a value are left out."""
    lines: list[Line] = []
    for name, value in pairs:
        if value is None or value == "":
            continue
        lines.append([(f"{name:<{width}} ", "dim"), (number(value), "")])
    return lines


def fact_columns(pairs: Iterable[tuple[str, object]], width: int) -> list[Line]:
    """As ``facts``, in two columns where the width allows."""
    lines = facts(pairs)
    if width < 72 or len(lines) < 4:
        return lines
    half = (len(lines) + 1) // 2
    column = width // 2
    joined: list[Line] = []
    for place in range(half):
        left = lines[place]
        length = sum(cell_len(text) for text, _ in left)
        if place + half >= len(lines):
            joined.append(left)
        elif length >= column:
            joined += [left, lines[place + half]]
        else:
            joined.append([*left, (" " * (column - length), ""), *lines[place + half]])
    return joined


def paragraph(text: str, width: int, style: str = "", indent: str = "") -> list[Line]:
    """Words wrapped to the width; line breaks of the text are kept."""
    lines: list[Line] = []
    for part in text.split("\n"):
        lines += _fold(printable(part), max(10, width - cell_len(indent)), style, indent)
    return lines


def _fold(text: str, width: int, style: str, indent: str) -> list[Line]:
    lines: list[Line] = []
    current = ""
    for word in text.split(" "):
        for piece in chop_cells(word, width) or [""]:
            joined = f"{current} {piece}" if current else piece
            if cell_len(joined) <= width:
                current = joined
            else:
                lines.append([(indent + current, style)])
                current = piece
    lines.append([(indent + current, style)])
    return lines


def wrapped(line: Line, width: int) -> list[Line]:
    """A line cut into lines of at most ``width`` cells, styles kept."""
    if width <= 0:
        return [line]
    out: list[Line] = [[]]
    room = width
    for text, style in line:
        rest = printable(text)
        while rest:
            length = cell_len(rest)
            if length <= room:
                out[-1].append((rest, style))
                room -= length
                break
            head = chop_cells(rest, room)[0] if room > 1 else ""
            if head and cell_len(head) <= room:
                out[-1].append((head, style))
                rest = rest[len(head) :]
            elif room == width:
                out[-1].append((rest[0], style))
                rest = rest[1:]
            out.append([])
            room = width
    return out


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    width: int = 0,
    marks: str = "",
    shown: Callable[[Any], str] = number,
) -> list[Line]:
    """A table with a header; numbers stand at the right, long texts are cut to the width.

    Args:
        columns: the headings.
        rows: values in the order of the columns.
        width: cells in all; 0 leaves every column as wide as its content.
        marks: style of the first column.
        shown: a value's text; figures are rounded for people unless told otherwise.
    """
    cells = [[shown(value) for value in row] for row in rows]
    right = [
        all(_numeric(row[i]) for row in rows if i < len(row)) and bool(rows)
        for i in range(len(columns))
    ]
    widths = [
        max([cell_len(head), *(cell_len(row[i]) for row in cells if i < len(row))])
        for i, head in enumerate(columns)
    ]
    if width:
        widths = _shrunk(widths, width - 2 * (len(widths) - 1))
    lines: list[Line] = [
        [(_pad(h, w, r) + "  ", "head") for h, w, r in _zip(columns, widths, right)]
    ]
    for row in cells:
        lines.append(
            [
                (_pad(cell, w, r) + "  ", marks if i == 0 else "")
                for i, (cell, w, r) in enumerate(_zip(row, widths, right))
            ]
        )
    return lines


def _zip(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]
) -> list[tuple[str, int, bool]]:
    return list(zip(cells, widths, right, strict=False))


def _pad(text: str, width: int, right: bool) -> str:
    text = printable(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…"[:width]
    return " " * (width - length) + text if right else text + " " * (width - length)


def _shrunk(widths: list[int], room: int) -> list[int]:
    """Take from the widest columns until the sum fits; none below 6 cells."""
    widths = list(widths)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda i: widths[i])
        if widths[widest] <= 6:
            break
        widths[widest] -= 1
    return widths


def _numeric(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def report_tables(tables: Iterable[Mapping[str, Any]], width: int) -> list[Line]:
    """The tables a step left for its reader: title, table, notes."""
    lines: list[Line] = []
    for item in tables:
        lines += heading(str(item.get("title", "Report")))
        columns = [str(c) for c in item.get("columns", ())]
        lines += folded_table(columns, list(item.get("rows", ())), width)
        if item.get("chart"):
            lines += [[(text, "")] for text in scatter(item["chart"], min(width, 100))]
        notes = item.get("notes", ())
        for note in [notes] if isinstance(notes, str) else notes:
            lines += paragraph(str(note), width, "dim")
    return lines[1:]


def folded_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> list[Line]:
    """A table whose columns go on below where they have no room, the first one repeated."""
    widths = [
        max([cell_len(head), *(cell_len(number(row[i])) for row in rows if i < len(row))])
        for i, head in enumerate(columns)
    ]
    blocks: list[list[int]] = []
    used = width + 1
    for index in range(1, len(columns)):
        if used + 2 + widths[index] > width:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(index)
        used += 2 + widths[index]
    lines: list[Line] = []
    for block in blocks or [[0]]:
        picked = [[row[i] for i in block if i < len(row)] for row in rows]
        lines += [[]] if lines else []
        lines += table([columns[i] for i in block], picked, width)
    return lines


def toml_lines(text: str) -> list[Line]:
    """A TOML text with its keys, tables and comments told apart."""
    lines: list[Line] = []
    for raw in text.splitlines():
        stripped = raw.lstrip()
        if stripped.startswith("#"):
            lines.append([(raw, "dim")])
        elif stripped.startswith("["):
            lines.append([(raw, "head")])
        elif "=" in raw and not stripped.startswith(('"""', "'''")):
            key, _, value = raw.partition("=")
            lines.append([(key, "key"), ("=" + value, "")])
        else:
            lines.append([(raw, "")])
    return lines
