"""``--set a.b=1``: TOML on the command line, put into the document before it is validated."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import BadInput
from engine.kinds import Kind
from engine.recipe.diagnostics import Override
from engine.recipe.nearest import did_you_mean
from engine.recipe.positions import KeyPath, Span
from engine.recipe.schema_view import schema_view

#: Keys of the recipe itself, in every recipe.
RECIPE_KEYS = ("recipe", "name", "kind", "description", "vars", "matrix", "pick")
PIPELINE_KEYS = (*RECIPE_KEYS, "steps")
#: Keys of a step that belong to the pipeline, not to the kind.
STEP_KEYS = ("uses", "require")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_BARE_TEXT = re.compile(r"[^\s\"'\[\]{}#,=][^\"'\[\]{}#\n]*")


@dataclass(frozen=True)
class SetValue:
    """A parsed ``--set``."""

    text: str
    path: tuple[str, ...]
    value: Any
    key_span: Span
    value_span: Span

    @property
    def override(self) -> Override:
        return Override(self.text, self.key_span, self.value_span)


def parse_set(text: str) -> SetValue:
    """``train.lr=1e-4`` as a path and a TOML value.

    A bare word is taken as text, so that ``--set base=smollm2`` needs no quotes inside quotes.

    Raises:
        BadInput: no ``=``, an empty key, or a value that is not TOML.
    """
    match = _KEY.match(text)
    if match is None:
        raise BadInput(
            f"--set {text!r} is no override", hint="write it as key=value: --set train.lr=1e-4"
        )
    raw = text[match.end() :]
    start = match.end() + len(raw) - len(raw.lstrip())
    raw = raw.strip()
    try:
        value = tomllib.loads(f"v = {raw}\n")["v"]
        single = len(tomllib.loads(f"v = {raw}\n")) == 1
    except tomllib.TOMLDecodeError as error:
        if _BARE_TEXT.fullmatch(raw) is None:
            raise BadInput(
                f"--set {text!r}: the value is not TOML",
                why=str(error),
                hint="text with special characters needs quotes: --set 'base=\"my model\"'",
            ) from error
        value, single = raw, True
    if not single:
        raise BadInput(f"--set {text!r} holds more than one value")
    key = match.group(1)
    path = tuple(_parts(tomllib.loads(f"{key} = 1")))
    span = Span(match.start(1), match.end(1))
    return SetValue(text, path, value, span, Span(start, start + len(raw)))


def _parts(document: Mapping[str, Any]) -> list[str]:
    parts: list[str] = []
    value: Any = document
    while isinstance(value, Mapping):
        name = next(iter(value))
        parts.append(name)
        value = value[name]
    return parts


def resolve_path(
    path: Sequence[str], document: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> KeyPath:
    """The full path that an override or a matrix key means.

    In a pipeline ``train.lr`` is short for ``steps.train.train.lr``: a step's name stands for
    ``steps.<name>``, and a table may be left out where only one table of the kind has the key.

    Raises:
        BadInput: several tables have the key.
    """
    parts = tuple(path)
    if document.get("kind") == "pipeline":
        if parts[0] in PIPELINE_KEYS:
            if parts[0] != "steps" or len(parts) < 3:
                return parts
            step, rest = parts[1], parts[2:]
        else:
            step, rest = parts[0], parts[1:]
        steps = document.get("steps")
        body = steps.get(step) if isinstance(steps, Mapping) else None
        if not isinstance(body, Mapping):
            if parts[0] == "steps" and isinstance(steps, Mapping) and rest[0] != "uses":
                raise BadInput(f"there is no step `{step}`", hint=did_you_mean(step, steps))
            return parts
        kind = kinds.get(str(body.get("uses")))
        return ("steps", step, *_within(rest, kind, ".".join(parts)))
    if parts[0] in RECIPE_KEYS:
        return parts
    return _within(parts, kinds.get(str(document.get("kind"))), ".".join(parts))


def _within(parts: tuple[str, ...], kind: Kind | None, shown: str) -> tuple[str, ...]:
    if not parts or kind is None:
        return parts
    view = schema_view(kind.model)
    if parts[0] in view.keys(()) or parts[0] in STEP_KEYS:
        return parts
    sections = view.sections_with(parts[0])
    if len(sections) > 1:
        names = " or ".join(".".join((*section, parts[0])) for section in sections)
        raise BadInput(f"{shown} is ambiguous", hint=f"write {names}")
    return (*sections[0], *parts) if sections else parts


def put(document: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set the value at ``path``, making tables on the way.

    Raises:
        BadInput: something on the way is not a table.
    """
    place: Any = document
    for depth, part in enumerate(path[:-1]):
        if isinstance(place, list) and isinstance(part, str) and part.isdigit():
            part = int(part)
            if part >= len(place):
                raise BadInput(f"{'.'.join(map(str, path))}: there is no item {part}")
            place = place[part]
            continue
        place = place.setdefault(part, {})
        if not isinstance(place, (dict, list)):
            shown = ".".join(str(p) for p in path[: depth + 1])
            raise BadInput(f"{shown} is not a table, so {path[depth + 1]} can't be set in it")
    last = path[-1]
    if isinstance(place, list):
        if not (isinstance(last, str) and last.isdigit() and int(last) < len(place)):
            raise BadInput(f"{'.'.join(map(str, path))}: there is no such item")
        place[int(last)] = value
    else:
        place[last] = value
