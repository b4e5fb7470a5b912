"""Which point of a matrix is the best, and the table that shows all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.recipe.plan import Plan

PICK = re.compile(r"\s*(min|max)\s+([A-Za-z0-9_-]+)\.([A-Za-z0-9_.-]+)\s*")


def parse(text: str) -> tuple[str, str, str]:
    """``"min check.perplexity"`` as (direction, step, output).

    Raises:
        BadInput: it is not written like that.
    """
    match = PICK.fullmatch(text)
    if match is None:
        raise BadInput(f"{text!r} is no pick", hint='write it as "min check.perplexity"')
    return match.group(1), match.group(2), match.group(3)


def choose(plan: Plan | Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]) -> int:
    """The number (from 1) of the picked point.

    Among equal values the first point wins; NaN and missing values never do.

    Args:
        plan: the plan, as an object or as its JSON.
        outputs: step name -> output name -> value, of the steps that succeeded.

    Raises:
        BadInput: the plan picks nothing, or no point has a value.
    """
    rule = plan["pick"] if isinstance(plan, Mapping) else plan.pick
    if rule is None:
        raise BadInput("the plan has no pick", hint='add pick = "min check.perplexity"')
    direction, step, output = parse(rule)
    sign = 1.0 if direction == "min" else -1.0
    best: tuple[float, int] | None = None
    for name, values in outputs.items():
        base, _, number = name.partition("@")
        value = values.get(output)
        if base != step or not number.isdigit() or isinstance(value, bool):
            continue
        if isinstance(value, (int, float)) and not math.isnan(value):
            candidate = (sign * float(value), int(number))
            best = candidate if best is None else min(best, candidate)
    if best is None:
        raise BadInput(
            f"no point of the matrix has a value for {step}.{output}",
            why="every one is missing or not a number",
        )
    return best[1]


def table(
    plan: Plan | Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """One row a point: its values, the numbers its steps returned, and which one was picked.

    Returns:
        A report table (``title, columns, rows, notes``), or None for a plan without a matrix.
    """
    content = plan if isinstance(plan, Mapping) else plan.to_json()
    points: dict[int, dict[str, Any]] = {}
    for step in content["steps"]:
        if step["point"] is not None:
            points.setdefault(int(step["name"].partition("@")[2]), dict(step["point"]))
    if not points:
        return None
    keys = list(next(iter(points.values())))
    metrics: list[str] = []
    rows: list[dict[str, Any]] = []
    for number, point in sorted(points.items()):
        row: dict[str, Any] = {"point": number, **point}
        for name, values in outputs.items():
            base, _, index = name.partition("@")
            if index == str(number):
                for output, value in values.items():
                    if isinstance(value, (int, float)) and not isinstance(value, bool):
                        row[f"{base}.{output}"] = value
                        if f"{base}.{output}" not in metrics:
                            metrics.append(f"{base}.{output}")
        rows.append(row)
    notes: tuple[str, ...] = ()
    picked: int | None = None
    if content["pick"]:
        try:
            picked = choose(content, outputs)
            notes = (f"picked: point {picked}, by {content['pick']}",)
        except BadInput as error:
            notes = (str(error),)
    columns = ["point", *keys, *metrics] + (["picked"] if picked else [])
    for row in rows:
        if picked:
            row["picked"] = "*" if row["point"] == picked else ""
    return {
        "title": "matrix",
        "columns": columns,
        "rows": [[row.get(column) for column in columns] for row in rows],
        "notes": list(notes),
    }
