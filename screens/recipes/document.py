"""A recipe being filled in: values set and unset by dotted key, comments and layout kept."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_TEXT = ("text", "a model", "a dataset or a file", "a path", '"', "one of")


class RecipeDocument:
    """TOML text in, the same text with changed values out (tomlkit; 20 ms to import)."""

    def __init__(self, text: str) -> None:
        import tomlkit

        self._document = tomlkit.parse(text)

    @property
    def text(self) -> str:
        """The recipe as it stands."""
        import tomlkit

        return tomlkit.dumps(self._document)

    @property
    def kind(self) -> str:
        """The recipe's kind, or empty."""
        return str(self._document.get("kind", ""))

    def steps(self) -> dict[str, str]:
        """The steps of a pipeline and the kind each uses."""
        steps = self._document.get("steps", {})
        if not isinstance(steps, Mapping):
            return {}
        tables = {str(k): step for k, step in steps.items() if isinstance(step, Mapping)}
        return {name: str(step.get("uses", "")) for name, step in tables.items()}

    def get(self, key: str) -> Any:
        """The value at a dotted key (also a quoted one of ``[matrix]``), or None."""
        found = _find(self._document, key)
        if found is None:
            return None
        value = found[0][found[1]]
        return value.unwrap() if hasattr(value, "unwrap") else value

    def leaves(self, table: str) -> list[str]:
        """Dotted keys of the values in a table and the tables in it."""
        found = self.get(table)
        return [label for label, _ in _flat(found)] if isinstance(found, Mapping) else []

    def shown(self, key: str) -> str:
        """The value as one writes it: text without quotes, the rest as TOML."""
        value = self.get(key)
        if value is None:
            return ""
        return value if isinstance(value, str) else toml_value(value)

    def set(self, key: str, text: str, expected: str = "") -> None:
        """Write a value; the tables on the way are made where they are missing.

        A new key of ``[matrix]`` or of a ``require`` is written as one quoted key: that is how
        those tables are read.
        """
        import tomlkit

        value = _inline(parsed(text, expected))
        found = _find(self._document, key)
        if found is not None:
            found[0][found[1]] = value
            return
        parts = key.split(".")
        if parts[0] == "matrix":
            parts = [parts[0], ".".join(parts[1:])]
        elif "require" in parts[:-1]:
            gates = parts.index("require") + 1
            parts = [*parts[:gates], ".".join(parts[gates:])]
        if len(parts) == 1:
            # a key after the last table would become a key of that table
            self._document_key(key, value)
            return
        node: Any = self._document
        for part in parts[:-1]:
            if part not in node or not isinstance(node[part], Mapping):
                # in the place of a value, [part] would take what stands below it
                inline = isinstance(node, tomlkit.items.InlineTable) or part in node
                node[part] = tomlkit.inline_table() if inline else tomlkit.table()
            node = node[part]
        node[parts[-1]] = value

    def _document_key(self, key: str, value: Any) -> None:
        """Write a new key of the document itself, before its first table."""
        import tomlkit

        lines = self.text.splitlines(keepends=True)
        place = next((n for n, x in enumerate(lines) if x.lstrip().startswith("[")), len(lines))
        while place and not lines[place - 1].strip():
            place -= 1
        if place and not lines[place - 1].endswith("\n"):
            lines[place - 1] += "\n"
        lines.insert(place, f"{key} = {toml_value(value)}\n")
        self._document = tomlkit.parse("".join(lines))

    def unset(self, key: str) -> None:
        """Take a value out; the kind's default holds again. An emptied sweep goes whole."""
        found = _find(self._document, key)
        if found is None:
            return
        del found[0][found[1]]
        if key.startswith("matrix.") and not self.get("matrix"):
            import tomlkit

            del self._document["matrix"]
            self._document = tomlkit.parse(self.text.rstrip("\n") + "\n")


def _find(node: Any, key: str) -> tuple[Any, str] | None:
    """The table that holds a dotted key, and the key's name in it."""
    if not hasattr(node, "get"):
        return None
    if key in node:
        return node, key
    parts = key.split(".")
    # the longest name first: "train.lr" in quotes is one key
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        if name in node:
            found = _find(node[name], ".".join(parts[length:]))
            if found is not None:
                return found
    return None


def _flat(table: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def parsed(text: str, expected: str = "") -> Any:
    """``text`` as TOML, else as a string; where text is expected a number stays text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    wants_text = expected.startswith(_TEXT) and "number" not in expected
    if wants_text and not isinstance(value, str | list | dict):
        return text
    return value


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    import tomlkit

    return str(tomlkit.item(_inline(value)).as_string())


def _inline(value: Any) -> Any:
    """A table as one writes it into a line; anything else as it is."""
    if not isinstance(value, dict):
        return value
    import tomlkit

    table = tomlkit.inline_table()
    table.update(value)
    return table
