"""A recipe being filled in: values set and unset by dotted key, comments and layout kept."""

from __future__ import annotations

import tomllib
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
        return {str(name): str(step.get("uses", "")) for name, step in steps.items()}

    def get(self, key: str) -> Any:
        """The value at a dotted key, or None."""
        node: Any = self._document
        for part in key.split("."):
            if not hasattr(node, "get"):
                return None
            node = node.get(part)
            if node is None:
                return None
        return node.unwrap() if hasattr(node, "unwrap") else node

    def shown(self, key: str) -> str:
        """The value as one writes it: text without quotes, the rest as TOML."""
        value = self.get(key)
        if value is None:
            return ""
        return value if isinstance(value, str) else toml_value(value)

    def set(self, key: str, text: str, expected: str = "") -> None:
        """Write a value; the tables on the way are made where they are missing."""
        import tomlkit

        parts = key.split(".")
        node: Any = self._document
        for part in parts[:-1]:
            if part not in node:
                node[part] = tomlkit.table()
            node = node[part]
        node[parts[-1]] = parsed(text, expected)

    def unset(self, key: str) -> None:
        """Take a value out; the kind's default holds again."""
        parts = key.split(".")
        node: Any = self._document
        for part in parts[:-1]:
            node = node.get(part)
            if node is None:
                return
        if parts[-1] in node:
            del node[parts[-1]]


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

    return str(tomlkit.item(value).as_string())
