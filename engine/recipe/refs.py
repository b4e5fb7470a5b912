"""References: ``${vars.x}``, ``${step.output}``, ``${pick.step.output}``, ``${env:NAME}``.

There is no expression language: a reference names one value and is replaced by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.recipe.plan import Plan

#: A reference, or anything that begins like one. ``$${`` stands for the characters ``${``.
PATTERN = re.compile(r"\$\$\{|\$\{([^{}\n]*)\}")
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
#: Step names a recipe can't use: they mean something in references.
RESERVED = frozenset({"vars", "env", "pick", "steps", "matrix"})


@dataclass(frozen=True)
class Reference:
    """One ``${...}`` in a value."""

    path: tuple[str | int, ...]
    """Where it stands, relative to the value that was searched."""
    text: str
    """What is between the braces."""
    start: int
    """Offset in the string."""
    whole: bool
    """The string is this reference and nothing else: the value keeps its type."""

    @property
    def is_env(self) -> bool:
        return _ENV.fullmatch(self.text) is not None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.text.split("."))


def find(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[Reference]:
    """Every reference in ``value``, at any depth."""
    if isinstance(value, str):
        for match in PATTERN.finditer(value):
            if match.group(1) is not None:
                whole = match.group(0) == value
                yield Reference(path, match.group(1).strip(), match.start(), whole)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from find(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from find(item, (*path, index))


def replace(value: Any, give: Callable[[Reference], Any], path: tuple[str | int, ...] = ()) -> Any:
    """``value`` with each reference replaced by what ``give`` returns; ``KEEP`` leaves it as it is.

    A string that is one reference takes the value with its type; inside a longer string the value
    is written as text.
    """
    if isinstance(value, str):
        return _replace_text(value, give, path)
    if isinstance(value, Mapping):
        return {key: replace(item, give, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace(item, give, (*path, index)) for index, item in enumerate(value)]
    return value


class _Keep:
    """Leaves a reference as it is."""


KEEP = _Keep()


def _replace_text(text: str, give: Callable[[Reference], Any], path: tuple[str | int, ...]) -> Any:
    for reference in find(text, path):
        if reference.whole:
            value = give(reference)
            return text if value is KEEP else value

    def one(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        value = give(Reference(path, match.group(1).strip(), match.start(), False))
        return match.group(0) if value is KEEP else _as_text(value)

    return PATTERN.sub(one, text)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fill(
    params: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    plan: Plan | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters with every ``${step.output}`` and ``${pick.step.output}`` filled in.

    Args:
        params: a planned step's parameters.
        outputs: step name -> output name -> value, of the steps that succeeded.
        plan: the plan, as an object or as its JSON; needed for ``${pick...}`` only.

    Raises:
        BadInput: an output that a reference names does not exist.
    """
    point: int | None = None

    def give(reference: Reference) -> Any:
        nonlocal point
        parts = reference.parts
        if reference.is_env:
            return KEEP
        if parts[0] == "pick":
            if point is None:
                from engine.recipe.picks import choose

                if plan is None:
                    raise BadInput(f"${{{reference.text}}} can't be filled without the plan")
                point = choose(plan, outputs)
            parts = (f"{parts[1]}@{point}", *parts[2:])
        return output_of(outputs, parts[0], ".".join(parts[1:]), reference.text)

    filled = replace(dict(params), give)
    return dict(filled)


def output_of(outputs: Mapping[str, Mapping[str, Any]], step: str, output: str, text: str) -> Any:
    """One output of one step.

    Raises:
        BadInput: the step has not succeeded, or did not return it.
    """
    if step not in outputs:
        raise BadInput(f"${{{text}}} has no value", why=f"step {step!r} has no outputs yet")
    if output not in outputs[step] or outputs[step][output] is None:
        known = ", ".join(k for k, v in outputs[step].items() if v is not None) or "nothing"
        raise BadInput(
            f"${{{text}}} has no value",
            why=f"step {step!r} did not return {output!r}; it returned {known}",
            hint="an output may need a setting of its step, such as train.merge = true",
        )
    return outputs[step][output]
