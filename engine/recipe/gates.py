"""``require``: numbers that earlier steps must have reached before a step may run."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.recipe.refs import output_of

if TYPE_CHECKING:
    from engine.recipe.plan import Plan

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_GATE = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Gate:
    """A comparison with a number."""

    operator: str
    limit: float

    def holds(self, value: float) -> bool:
        """True when ``value`` passes; NaN passes no gate."""
        return not math.isnan(value) and _COMPARE[self.operator](value, self.limit)


@dataclass(frozen=True)
class GateFailure:
    """A gate that is not met."""

    metric: str
    gate: str
    value: float | None
    reason: str

    def __str__(self) -> str:
        return self.reason


def parse(text: str) -> Gate:
    """``"<= 12"`` as a gate.

    Raises:
        BadInput: it is not a comparison with a number.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise BadInput(
            f"{text!r} is no gate", hint='write a comparison with a number, such as "<= 12"'
        )
    return Gate(match.group(1), float(match.group(2)))


def failures(
    require: Mapping[str, str],
    outputs: Mapping[str, Mapping[str, Any]],
    plan: Plan | Mapping[str, Any] | None = None,
) -> tuple[GateFailure, ...]:
    """The gates that are not met.

    Args:
        require: metric (``check.perplexity``, ``pick.check.perplexity``) -> gate.
        outputs: step name -> output name -> value, of the steps that succeeded.
        plan: needed where a metric begins with ``pick``.

    Raises:
        BadInput: a metric's step has not run.
    """
    found: list[GateFailure] = []
    for metric, text in require.items():
        parts = metric.split(".")
        if parts[0] == "pick":
            from engine.recipe.picks import choose

            if plan is None:
                raise BadInput(f"the gate on {metric} can't be decided without the plan")
            parts = [f"{parts[1]}@{choose(plan, outputs)}", *parts[2:]]
        value = output_of(outputs, parts[0], ".".join(parts[1:]), metric)
        shown = ".".join(parts)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            found.append(GateFailure(metric, text, None, f"{shown} is no number: {value!r}"))
        elif not parse(text).holds(float(value)):
            reason = f"{shown} is {value:.6g}, it must be {text.strip()}"
            found.append(GateFailure(metric, text, float(value), reason))
    return tuple(found)
