"""A kind's keys in words: what is allowed at a path, told from the model's JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel

    from engine.recipe.positions import KeyPath
    from engine.recipe.spec import StepSpec

Node = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One key of a kind, described for people."""

    path: tuple[str, ...]
    expected: str
    """``a whole number from 1 to 65536, or "auto"``."""
    description: str
    required: bool
    default: Any
    choices: tuple[str, ...]

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


class SchemaView:
    """Looks into one model's JSON Schema by key path."""

    def __init__(self, schema: Node) -> None:
        self.schema = schema

    def node(self, path: KeyPath) -> Node | None:
        """The schema of what stands at ``path``, or None where nothing is described."""
        node: Node | None = self.schema
        for part in path:
            node = self._child(self.resolve(node), part) if node is not None else None
        return self.resolve(node) if node is not None else None

    def resolve(self, node: Node) -> Node:
        """``node`` with its ``$ref`` followed; what stands beside the reference stays."""
        while "$ref" in node:
            target = self.schema["$defs"][node["$ref"].rpartition("/")[2]]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        if len(node.get("allOf", ())) == 1:
            inner = self.resolve(node["allOf"][0])
            node = {**inner, **{key: value for key, value in node.items() if key != "allOf"}}
        return node

    def branches(self, node: Node) -> list[Node]:
        """The alternatives of ``node`` (itself when there is only one), without ``null``."""
        node = self.resolve(node)
        options = node.get("anyOf") or node.get("oneOf")
        if not options:
            return [node]
        found = [branch for option in options for branch in self.branches(option)]
        return [branch for branch in found if branch.get("type") != "null"]

    def _child(self, node: Node, part: str | int) -> Node | None:
        for branch in self.branches(node):
            if isinstance(part, int):
                if "items" in branch:
                    item: Node = branch["items"]
                    return item
                continue
            if part in branch.get("properties", {}):
                child: Node = branch["properties"][part]
                return child
            extra = branch.get("additionalProperties")
            if isinstance(extra, dict):
                return extra
        return None

    def keys(self, path: KeyPath) -> list[str]:
        """The keys that the table at ``path`` may have (none: any key, or it is no table)."""
        node = self.node(path)
        if node is None:
            return []
        return [key for branch in self.branches(node) for key in branch.get("properties", {})]

    def sections_with(self, key: str) -> list[tuple[str, ...]]:
        """Paths of the tables (at any depth) that have ``key``."""
        return [f.path[:-1] for f in self.fields() if f.path[-1] == key and len(f.path) > 1]

    def fields(self) -> list[Field]:
        """Every key at any depth, in the order of the model; tables are left out for their keys."""
        return list(self._fields(self.schema, ()))

    def _fields(self, node: Node, prefix: tuple[str, ...]) -> Iterator[Field]:
        required = set(node.get("required", ()))
        for name, child in node.get("properties", {}).items():
            resolved = self.resolve(child)
            path = (*prefix, name)
            tables = [b for b in self.branches(resolved) if "properties" in b]
            if tables:
                for table in tables:
                    yield from self._fields(table, path)
                continue
            yield Field(
                path,
                self.expected(resolved),
                " ".join(str(resolved.get("description", "")).split()),
                name in required,
                resolved.get("default"),
                tuple(self.choices(resolved)),
            )

    def reference_kind(self, node: Node) -> str | None:
        """``model``, ``data`` or ``path`` for keys that name one."""
        for branch in self.branches(node):
            if "x-ref" in branch:
                return str(branch["x-ref"])
        return None

    def references(
        self, value: Any, node: Node | None = None
    ) -> Iterator[tuple[KeyPath, str, str]]:
        """``(path, text, "model" | "data" | "path")`` of every such value of a step's keys."""
        node = self.resolve(self.schema if node is None else node)
        kind = self.reference_kind(node)
        if isinstance(value, str):
            if kind is not None:
                yield (), value, kind
        elif isinstance(value, Mapping):
            for key, item in value.items():
                child = self._child(node, key)
                if child is not None:
                    for path, text, what in self.references(item, child):
                        yield (key, *path), text, what
        elif isinstance(value, (list, tuple)):
            child = self._child(node, 0)
            for index, item in enumerate(value if child is not None else ()):
                for path, text, what in self.references(item, child):
                    yield (index, *path), text, what

    def choices(self, node: Node) -> list[str]:
        """The texts that are allowed, where they are listed."""
        found: list[str] = []
        for branch in self.branches(node):
            options = branch.get("enum", [branch["const"]] if "const" in branch else [])
            found += [option for option in options if isinstance(option, str)]
        return found

    def types(self, node: Node) -> set[str]:
        """JSON types that are allowed: ``integer``, ``string``, ..."""
        found: set[str] = set()
        for branch in self.branches(node):
            if "type" in branch:
                found.add(str(branch["type"]))
            for option in branch.get("enum", ()):
                found.add(_json_type(option))
            if not branch.keys() - {"title", "description", "default"}:
                found.add("any")
        return found

    def expected(self, node: Node) -> str:
        """What may stand there, in words."""
        words: list[str] = []
        for branch in self.branches(node):
            text = self._branch_words(branch)
            if text not in words:
                words.append(text)
        return ", or ".join(words) if words else "a value"

    def _branch_words(self, branch: Node) -> str:
        if "const" in branch:
            return _quoted(branch["const"])
        if "enum" in branch:
            options = [_quoted(option) for option in branch["enum"]]
            return options[0] if len(options) == 1 else "one of " + ", ".join(options)
        kind = branch.get("type")
        if kind in ("integer", "number"):
            noun = "a whole number" if kind == "integer" else "a number"
            return noun + _range_words(branch)
        if kind == "array":
            inner = self._item_words(branch.get("items", {}))
            least = branch.get("minItems")
            return f"a list of {inner}" + (f" (at least {least})" if least else "")
        if kind == "string":
            return {"model": "a model", "data": "a dataset or a file", "path": "a path"}.get(
                str(branch.get("x-ref")), "text" + _length_words(branch)
            )
        return {"boolean": "true or false", "object": "a table"}.get(str(kind), "any value")

    def _item_words(self, items: Node) -> str:
        words = self.expected(items)
        plain = {"text": "texts", "a model": "models", "a dataset or a file": "datasets or files"}
        return plain.get(words, f"values, each {words}")


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range_words(branch: Node) -> str:
    low, high = branch.get("minimum"), branch.get("maximum")
    above, below = branch.get("exclusiveMinimum"), branch.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    parts = []
    if low is not None:
        parts.append(f"at least {_number(low)}")
    if above is not None:
        parts.append(f"above {_number(above)}")
    if high is not None:
        parts.append(f"at most {_number(high)}")
    if below is not None:
        parts.append(f"below {_number(below)}")
    words = " and ".join(parts)
    return f" {'of ' if words.startswith('at ') else ''}{words}" if parts else ""


def _length_words(branch: Node) -> str:
    low, high = branch.get("minLength"), branch.get("maxLength")
    if low == 1 and high is None:
        return " (not empty)"
    if high is not None:
        return f" of {low or 0} to {high} characters"
    return ""


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {str: "string", int: "integer", float: "number"}.get(type(value), "object")


@cache
def schema_view(model: type[StepSpec]) -> SchemaView:
    """The view of a kind's model (its JSON Schema takes some milliseconds to make)."""
    schema = model.model_json_schema()
    _tell_factories(model, schema, schema.get("$defs", {}))
    return SchemaView(schema)


def _tell_factories(model: type[BaseModel], node: Node, definitions: Node) -> None:
    """Write defaults that a factory makes into the schema: pydantic leaves them out."""
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        if field.default_factory is not None:
            made = field.get_default(call_default_factory=True, validated_data={})
            node["properties"][name].setdefault("default", made)
        for inner in (field.annotation, *get_args(field.annotation)):
            section = isinstance(inner, type) and issubclass(inner, BaseModel)
            if section and inner.__name__ in definitions:
                _tell_factories(inner, definitions[inner.__name__], definitions)
