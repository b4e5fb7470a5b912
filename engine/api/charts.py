"""Charts as lines of text, for a terminal and for a screen alike.

A step leaves a chart beside its table: ``{"title", "x", "y", "points": [{"name", "x", "y",
"front"}]}``. ``front`` marks the points that no other one beats on both axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of the vertical axis with its labels.
_MARGIN = 9


def scatter(
    chart: Mapping[str, Any], width: int, height: int = 14, *, ascii_only: bool = False
) -> list[str]:
    """Draw the points of ``chart`` with their names; smaller is better on both axes.

    The vertical axis is logarithmic where its values span more than a factor of ten, so that the
    differences between the good ones stay visible.

    Args:
        chart: as described above; points that are not finite are left out.
        width: columns in all, at least 40.
        height: most lines of the plane, without the axis and the legend; few points take fewer.
        ascii_only: ``*`` and ``o`` instead of filled and open circles.

    Returns:
        Lines of at most ``width`` columns; none where fewer than two points can be drawn.
    """
    points = [found for p in chart.get("points", ()) if (found := _point(p)) is not None]
    if len(points) < 2:
        return []
    columns = max(width, 40) - _MARGIN - 2
    height = min(height, 3 * len(points) + 1)
    high, low = max(p[2] for p in points), min(p[2] for p in points)
    logarithmic = low > 0 and high > 10 * low

    def scale(value: float) -> float:
        return math.log(value) if logarithmic else value

    rows = [
        round((scale(high) - scale(y)) / ((scale(high) - scale(low)) or 1.0) * (height - 1))
        for _name, _x, y, _front in points
    ]
    left, right = min(p[1] for p in points), max(p[1] for p in points)
    places = [round((p[1] - left) / ((right - left) or 1.0) * (columns - 1)) for p in points]
    plane = [[" "] * columns for _ in range(height)]
    good, beaten = ("*", "o") if ascii_only else ("●", "○")
    for (_name, _x, _y, front), row, column in zip(points, rows, places, strict=True):
        plane[row][column] = good if front else beaten
    for (name, _x, _y, _front), row, column in sorted(
        zip(points, rows, places, strict=True), key=lambda item: not item[0][3]
    ):
        _label(plane, row, column, name)
    legend = f"{good} none is smaller and better at once   {beaten} beaten by another"
    return [
        f"{chart.get('y', '')}{', logarithmic' if logarithmic else ''}",
        *_framed(plane, rows, points, ascii_only),
        *_axis(left, right, columns, str(chart.get("x", "")), ascii_only),
        f"{'':{_MARGIN}} {legend}"[: max(width, 40)],
    ]


def _point(value: Mapping[str, Any]) -> tuple[str, float, float, bool] | None:
    """Name, place and mark of a point; None where it can't be drawn (a report of long ago)."""
    x, y = value.get("x"), value.get("y")
    if not isinstance(x, (int, float)) or not isinstance(y, (int, float)):
        return None
    if not (math.isfinite(x) and math.isfinite(y)):
        return None
    return str(value.get("name", "")), float(x), float(y), bool(value.get("front"))


def _label(plane: list[list[str]], row: int, column: int, name: str) -> None:
    """Write a name where there is room: right of its point, left, above or below."""
    columns = len(plane[0])
    tries = [(row, column + 2), (row, column - 1 - len(name))]
    for other in (row - 1, row + 1):
        start = min(max(0, column - len(name) // 2), max(0, columns - len(name)))
        tries.append((other, start))
    for line, start in tries:
        if not 0 <= line < len(plane) or start < 0 or start + len(name) > columns:
            continue
        cells = plane[line][max(0, start - 1) : start + len(name) + 1]
        if line == row:
            # the point itself may stand next to its name
            cells = plane[line][start : start + len(name)]
        if all(cell == " " for cell in cells):
            plane[line][start : start + len(name)] = list(name)
            return


def _framed(
    plane: Sequence[Sequence[str]],
    rows: Sequence[int],
    points: Sequence[tuple[str, float, float, bool]],
    ascii_only: bool,
) -> list[str]:
    """The plane with the values of the first, the middle and the last point at its side."""
    bar = "|" if ascii_only else "│"
    values = dict(zip(rows, (p[2] for p in points), strict=True))
    shown = {0, len(plane) - 1}
    middle = [r for r in values if 2 < r < len(plane) - 3]
    if middle:
        shown.add(min(middle, key=lambda r: abs(r - len(plane) // 2)))
    lines = []
    for number, cells in enumerate(plane):
        text = f"{values[number]:.4g}" if number in shown and number in values else ""
        lines.append(f"{text:>{_MARGIN}}{bar}{''.join(cells)}".rstrip())
    return lines


def _axis(left: float, right: float, columns: int, unit: str, ascii_only: bool) -> list[str]:
    corner, dash = ("+", "-") if ascii_only else ("└", "─")
    first, last = f"{left:.4g}", f"{right:.4g}"
    room = columns - len(first) - len(last)
    return [
        f"{'':{_MARGIN}}{corner}{dash * columns}",
        f"{'':{_MARGIN}} {first}{unit:^{room}}{last}",
    ]
