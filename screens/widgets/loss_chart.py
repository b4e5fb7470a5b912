"""The loss curve: braille dots by min/max buckets, so that a spike of one step stays visible.

10,000 points take about 2.5 ms and 4 kB a frame here (plotext: 88 ms, Sparkline: 90 kB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from screens.text import Line

Point = tuple[float, float]

#: Bit of a dot at (column, row) of a braille cell; Unicode 8-dot patterns (U+2800).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_LABEL = 8


def loss_chart(
    points: Sequence[Point],
    width: int,
    height: int,
    *,
    marks: Sequence[Point] = (),
    ascii_only: bool = False,
    unit: str = "step",
) -> list[Line]:
    """A curve with its axes as lines of text.

    Args:
        points: ``(step, value)`` in any order; values that are not finite are left out.
        width: cells in all, labels included.
        height: lines in all, the axis included.
        marks: points drawn on top as ``o``: the loss on held-out data.
        ascii_only: ``*`` a cell instead of braille.
        unit: what the horizontal axis counts.
    """
    clean = sorted(p for p in points if math.isfinite(p[1]))
    extra = [p for p in marks if math.isfinite(p[1])]
    columns, rows = width - _LABEL - 1, height - 2
    if not clean or columns < 4 or rows < 2:
        return [[("no loss was reported yet", "dim")]]
    low, high = _bounds([v for _, v in (*clean, *extra)])
    first = min(p[0] for p in (*clean, *extra))
    last = max(p[0] for p in (*clean, *extra))
    grid = _braille(clean, columns, rows, (first, last, low, high))
    if ascii_only:
        grid = [["*" if cell != " " else " " for cell in row] for row in grid]
    lines = _framed(grid, low, high, ascii_only)
    _put_marks(lines, extra, (columns, rows), (first, last, low, high))
    return [*lines, _axis(columns, ascii_only), _labels(columns, first, last, unit)]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-9:
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def _braille(
    points: Sequence[Point],
    columns: int,
    rows: int,
    bounds: tuple[float, float, float, float],
) -> list[list[str]]:
    first, last, low, high = bounds
    across, down = columns * 2, rows * 4
    span = (last - first) or 1.0
    least: list[float | None] = [None] * across
    most: list[float | None] = [None] * across
    for step, value in points:
        x = min(across - 1, int((step - first) / span * (across - 1)))
        mine, other = least[x], most[x]
        least[x] = value if mine is None or value < mine else mine
        most[x] = value if other is None or value > other else other
    cells = [[0] * columns for _ in range(rows)]
    scale = (down - 1) / (high - low)
    before: int | None = None
    before_x = 0
    for x in range(across):
        bottom, top = least[x], most[x]
        if bottom is None or top is None:
            continue
        upper = down - 1 - round((top - low) * scale)
        lower = down - 1 - round((bottom - low) * scale)
        if before is not None:
            _join(cells, before_x, before, x, (upper + lower) // 2)
        for y in range(upper, lower + 1):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        before, before_x = (upper + lower) // 2, x
    # a space where there is no dot: one byte on the line instead of three
    return [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]


def _join(cells: list[list[int]], x0: int, y0: int, x1: int, y1: int) -> None:
    """Dots on the way between two buckets, so that few points still make a line."""
    steps = max(abs(x1 - x0), abs(y1 - y0))
    for n in range(1, steps):
        x, y = x0 + (x1 - x0) * n // steps, y0 + (y1 - y0) * n // steps
        cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]


def _framed(grid: list[list[str]], low: float, high: float, ascii_only: bool) -> list[Line]:
    edge = "|" if ascii_only else "│"
    lines: list[Line] = []
    for y, row in enumerate(grid):
        share = 1 - y / max(1, len(grid) - 1)
        labelled = y in (0, len(grid) - 1) or (len(grid) >= 7 and y == len(grid) // 2)
        label = f"{low + (high - low) * share:.4g}" if labelled else ""
        lines.append([(f"{label:>{_LABEL - 1}} {edge}", "dim"), ("".join(row), "accent")])
    return lines


def _put_marks(
    lines: list[Line],
    marks: Sequence[Point],
    grid: tuple[int, int],
    bounds: tuple[float, float, float, float],
) -> None:
    columns, rows = grid
    first, last, low, high = bounds
    placed: dict[int, set[int]] = {}
    for step, value in marks:
        x = min(columns - 1, int((step - first) / ((last - first) or 1.0) * (columns - 1)))
        y = min(rows - 1, max(0, round((high - value) / (high - low) * (rows - 1))))
        placed.setdefault(y, set()).add(x)
    for y, places in placed.items():
        edge, (curve, style) = lines[y]
        spans: Line = [edge]
        start = 0
        for x in sorted(places):
            spans += [(curve[start:x], style), ("o", "warn")]
            start = x + 1
        lines[y] = [*spans, (curve[start:], style)]


def _axis(columns: int, ascii_only: bool) -> Line:
    corner, line = ("+", "-") if ascii_only else ("└", "─")
    return [(" " * _LABEL + corner + line * columns, "dim")]


def _labels(columns: int, first: float, last: float, unit: str) -> Line:
    left, right = f"{first:g}", f"{last:g} {unit}"
    gap = max(1, columns - len(left) - len(right))
    return [(" " * (_LABEL + 1) + left + " " * gap + right, "dim")]
