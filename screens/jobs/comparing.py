"""Two runs side by side: both loss curves in one chart, then every figure and setting."""

from __future__ import annotations

from typing import Any

from engine.types.compared import Curve, JobsCompared
from engine.types.jobs import JobView
from screens.prose import heading, table
from screens.text import Line
from screens.widgets.loss_chart import loss_chart

_HEIGHT = 14
#: Points of the second curve: it is drawn as single marks.
_MARKS = 40


def comparison_lines(found: JobsCompared, width: int, *, ascii_only: bool = False) -> list[Line]:
    """The chart where either reported a loss; figures; settings that differ; artifacts."""
    lines: list[Line] = [
        [("first   ", "dim"), (_named(found.left), "key")],
        [("second  ", "dim"), (_named(found.right), "accent")],
    ]
    lines += _chart(found, width, ascii_only)
    figures: list[tuple[Any, ...]] = [
        (name, a, b, b - a if a is not None and b is not None else None)
        for name, a, b in found.figures
    ]
    if figures:
        lines += heading("Figures")
        lines += table(("figure", "first", "second", "change"), figures, width, "key")
    lines += heading("Settings that differ" if found.settings else "All settings are alike")
    if found.settings:
        shown = [(key, _value(a), _value(b)) for key, a, b in found.settings]
        lines += table(("setting", "first", "second"), shown, width, "key")
    changed = [(n, (a or "")[:19], (b or "")[:19]) for n, a, b in found.artifacts]
    if changed:
        lines += heading("Artifacts")
        lines += table(("output", "first", "second"), changed, width, "key")
    return lines


def _named(job: JobView) -> str:
    return f"{job.id}  {job.name}  ({job.state})"


def _value(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else repr(value)


def _chart(found: JobsCompared, width: int, ascii_only: bool) -> list[Line]:
    one, two = found.loss
    if not one and not two:
        return []
    told: Line = [
        ("loss: ", "bold"),
        ("the curve is the first", "key"),
        (", o the second", "accent"),
    ]
    if not one or not two:
        told = [("loss of the " + ("first" if one else "second"), "bold")]
    marks = _thinned(two) if one else ()
    drawn = loss_chart(one or two, width, _HEIGHT, marks=marks, ascii_only=ascii_only)
    return [[], told, *drawn]


def _thinned(curve: Curve) -> Curve:
    """Some of its points, the last always among them."""
    step = max(1, len(curve) // _MARKS)
    return tuple(curve[::-1][::step][::-1])
