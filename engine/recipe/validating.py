"""One step's keys against its kind's model: pydantic's findings in plain words and placed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.recipe.diagnostics import Collector
from engine.recipe.nearest import nearest
from engine.recipe.positions import KeyPath
from engine.recipe.schema_view import Node, SchemaView, schema_view

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from engine.kinds import Kind
    from engine.recipe.spec import StepSpec

#: A key path named in the message of a model's own validator.
_NAMED_KEY = re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*")
_MISSING = object()


def validate_step(
    kind: Kind,
    body: Mapping[str, Any],
    where: KeyPath,
    collector: Collector,
    deferred: set[KeyPath],
) -> StepSpec | None:
    """The step's spec, or None when a mistake was reported.

    Args:
        kind: the step's kind.
        body: the step's keys, vars filled in.
        where: path of the step in the document.
        collector: takes the mistakes.
        deferred: paths in the body whose value an earlier step will give; their type is checked
            when it is known.
    """
    from pydantic import ValidationError

    plain = _without(body, deferred)
    try:
        return kind.model.model_validate(plain)
    except ValidationError as error:
        reporter = _Reporter(kind.name, schema_view(kind.model), body, where, collector)
        reporter.report(error.errors(include_url=False), deferred)
    return None


def _without(body: Any, paths: set[KeyPath], at: KeyPath = ()) -> Any:
    if isinstance(body, Mapping):
        return {
            key: _without(item, paths, (*at, key))
            for key, item in body.items()
            if (*at, key) not in paths
        }
    if isinstance(body, list):
        return [
            _without(item, paths, (*at, index))
            for index, item in enumerate(body)
            if (*at, index) not in paths
        ]
    return body


def value_at(body: Any, path: KeyPath) -> Any:
    """The value at a path, or a marker when there is none."""
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return body


class _Reporter:
    def __init__(
        self, kind: str, view: SchemaView, body: Any, where: KeyPath, collector: Collector
    ) -> None:
        self.kind = kind
        self.view = view
        self.body = body
        self.where = where
        self.collector = collector

    def report(self, errors: Iterable[ErrorDetails], deferred: set[KeyPath]) -> None:
        """One mistake a place, however many branches of a union complain."""
        grouped: dict[KeyPath, list[ErrorDetails]] = {}
        for error in errors:
            grouped.setdefault(self._path(error), []).append(error)
        for path, group in grouped.items():
            types = {error["type"] for error in group}
            if path in deferred:
                continue
            if "extra_forbidden" in types:
                self._unknown(path)
            elif "missing" in types:
                self._missing(path)
            elif types & {"value_error", "assertion_error"}:
                self._own_words(path, next(e for e in group if e["type"].endswith("_error")))
            else:
                self._not_allowed(path, group[0])

    def _path(self, error: ErrorDetails) -> KeyPath:
        """The error's place in the document: its ``loc`` without the names of union branches."""
        path: KeyPath = ()
        loc = error["loc"]
        for index, part in enumerate(loc):
            last = index == len(loc) - 1
            if value_at(self.body, (*path, part)) is not _MISSING or (
                last and error["type"] == "missing"
            ):
                path = (*path, part)
        return path

    def _unknown(self, path: KeyPath) -> None:
        key = str(path[-1])
        known = self.view.keys(path[:-1])
        place = _table_name(path[:-1], self.kind)
        advice = ""
        elsewhere = [p for p in self.view.sections_with(key) if p != path[:-1]]
        top = key in self.view.keys(()) and len(path) > 1
        if elsewhere:
            tables = " or ".join("[" + ".".join(section) + "]" for section in elsewhere)
            advice = f"`{key}` belongs in {tables}"
        elif top:
            advice = f"`{key}` belongs at the top of the step, before its tables"
        elif (found := nearest(key, known)) is not None:
            advice = f"did you mean `{found}`?"
        else:
            everywhere = {f.path[-1]: f for f in self.view.fields()}
            other = nearest(key, everywhere)
            if other is not None:
                advice = f"did you mean `{everywhere[other].dotted}`?"
            else:
                advice = f"known keys: {', '.join(known)}" if known else ""
        self.collector.add(
            (*self.where, *path), f"unknown key `{key}` in {place}", advice, at="key"
        )

    def _missing(self, path: KeyPath) -> None:
        node = self.view.node(path) or {}
        key = ".".join(str(part) for part in path)
        description = " ".join(str(node.get("description", "")).split())
        advice = f"it is {self.view.expected(node)}"
        if description:
            advice += f": {description[0].lower()}{description[1:]}"
        written = value_at(self.body, path[:-1])
        near = None
        if isinstance(written, Mapping):
            unknown = [name for name in written if name not in self.view.keys(path[:-1])]
            near = nearest(str(path[-1]), unknown)
        if near is not None:
            # the unknown key is reported with "did you mean": one mistake, one message
            return
        self.collector.add((*self.where, *path), f"`{key}` is missing", advice, at="key")

    def _own_words(self, path: KeyPath, error: ErrorDetails) -> None:
        """A model's own validator: its message, at the key it names where it names one."""
        message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        spot = path
        for match in _NAMED_KEY.finditer(message):
            named = tuple(match.group(0).split("."))
            for candidate in ((*path, *named), named):
                deeper = len(candidate) > len(spot)
                if deeper and value_at(self.body, candidate) is not _MISSING:
                    spot = candidate
                    break
        what, _, advice = message.partition("; ")
        self.collector.add((*self.where, *spot), what, advice)

    def _not_allowed(self, path: KeyPath, error: ErrorDetails) -> None:
        if self.collector.has_error_at((*self.where, *path)):
            return
        node = self.view.node(path)
        value = value_at(self.body, path)
        key = ".".join(str(part) for part in path) or self.kind
        if node is None:
            self.collector.add((*self.where, *path), f"`{key}`: {_lower(error['msg'])}")
            return
        expected = self.view.expected(node)
        shown = _shown(value)
        what = f"`{key}` is {shown}, it must be {expected}"
        if expected in ("a value", "any value"):
            what = f"`{key}` is {shown}: {_lower(error['msg'])}"
        self.collector.add((*self.where, *path), what, self._advice(node, value))

    def _advice(self, node: Node, value: Any) -> str:
        choices = self.view.choices(node)
        types = self.view.types(node)
        if isinstance(value, str):
            if "${" in value and not types & {"string"}:
                return "an environment variable is text: it can't stand here"
            if choices and (found := nearest(value, choices)):
                return f'did you mean "{found}"?'
            if types & {"integer", "number", "boolean"} and _is_toml(value):
                return f"write it without quotes: {value.strip()}"
        if isinstance(value, list) and "array" not in types:
            return "it takes one value; to try several, use [matrix]"
        if "array" in types and not isinstance(value, list):
            return "write a list: [...]"
        if "object" in types and "properties" in self.view.branches(node)[0]:
            return f"its keys: {', '.join(self.view.branches(node)[0]['properties'])}"
        return ""


def _table_name(path: KeyPath, kind: str) -> str:
    if not path:
        return f"a step of kind {kind}"
    return "[" + ".".join(str(part) for part in path) + "]"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    """A value as it may stand in a sentence: short, with its type where that is the mistake."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{value if len(value) <= 40 else value[:39] + "…"}"'
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a table" if isinstance(value, Mapping) else str(value)


def _is_toml(text: str) -> bool:
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        return False
    return not isinstance(value, str)
