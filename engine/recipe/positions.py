"""Where every key and value of a TOML text stands. tomllib tells positions of syntax errors only.

The scanner runs after tomllib accepted the text, so it need not judge: it walks valid TOML 1.0 and
notes, for each path of the parsed document, the span of its key and of its value.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

KeyPath = tuple[str | int, ...]

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Span:
    """A stretch of the text: ``start`` and ``end`` are character offsets, ``end`` excluded."""

    start: int
    end: int


@dataclass
class Positions:
    """Spans by key path; list items and arrays of tables are addressed by index."""

    text: str
    keys: dict[KeyPath, Span] = field(default_factory=dict)
    values: dict[KeyPath, Span] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = [0]
        for offset, char in enumerate(self.text):
            if char == "\n":
                self._starts.append(offset + 1)

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1; columns count characters."""
        line = bisect.bisect_right(self._starts, offset) - 1
        return line + 1, offset - self._starts[line] + 1

    def line_text(self, line: int) -> str:
        """The text of a line (from 1) without its end."""
        start = self._starts[line - 1]
        end = self._starts[line] - 1 if line < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r")

    def key(self, path: KeyPath) -> Span | None:
        """The key of ``path``, else what stands nearest: its value, or the table around it."""
        return self._nearest(path, (self.keys, self.values))

    def value(self, path: KeyPath) -> Span | None:
        """The value of ``path``, else what stands nearest: its key, or the table around it."""
        return self._nearest(path, (self.values, self.keys))

    def has(self, path: KeyPath) -> bool:
        """True when ``path`` is written in the text."""
        return path in self.keys or path in self.values

    def _nearest(self, path: KeyPath, order: tuple[Mapping[KeyPath, Span], ...]) -> Span | None:
        if found := next((spans[path] for spans in order if path in spans), None):
            return found
        for length in range(len(path) - 1, 0, -1):
            for spans in (self.keys, self.values):
                if path[:length] in spans:
                    return spans[path[:length]]
        return None


def find_positions(text: str) -> Positions:
    """The positions of every key and value.

    Args:
        text: TOML that ``tomllib`` has accepted.
    """
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found = Positions(text)
        #: number of tables seen so far in each array of tables
        self.arrays: dict[KeyPath, int] = {}

    def run(self) -> Positions:
        prefix: KeyPath = ()
        while self._skip(newlines=True):
            if self._peek() == "[":
                prefix = self._header()
            else:
                self._pair(prefix)
        return self.found

    # -- structure --------------------------------------------------------------------------------

    def _header(self) -> KeyPath:
        start = self.at
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        parts = list(self._key_parts())
        self.at = self.text.index("]", self.at) + (2 if double else 1)
        path: KeyPath = ()
        for name, span in parts[:-1]:
            path = self._into(path, name, span)
        name, span = parts[-1]
        path = (*path, name)
        self.found.keys.setdefault(path, span)
        if double:
            index = self.arrays.get(path, -1) + 1
            self.arrays[path] = index
            path = (*path, index)
            self.found.keys[path] = span
        self.found.values.setdefault(path, Span(start, self.at))
        return path

    def _into(self, path: KeyPath, name: str, span: Span) -> KeyPath:
        path = (*path, name)
        self.found.keys.setdefault(path, span)
        return (*path, self.arrays[path]) if path in self.arrays else path

    def _pair(self, prefix: KeyPath) -> None:
        parts = list(self._key_parts())
        path = prefix
        for name, span in parts[:-1]:
            path = self._into(path, name, span)
        name, span = parts[-1]
        path = (*path, name)
        self.found.keys[path] = span
        self.at = self.text.index("=", self.at) + 1
        self._skip(newlines=False)
        self._value(path)

    def _key_parts(self) -> Iterator[tuple[str, Span]]:
        while True:
            self._skip(newlines=False)
            start = self.at
            char = self._peek()
            if char in "\"'":
                name = self._string()
            else:
                while self._peek() in _BARE and self._peek():
                    self.at += 1
                name = self.text[start : self.at]
            yield name, Span(start, self.at)
            self._skip(newlines=False)
            if self._peek() != ".":
                return
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        start = self.at
        char = self._peek()
        if char in ("'", '"'):
            self._string()
        elif char == "[":
            self._array(path)
        elif char == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1
            end = start + len(self.text[start : self.at].rstrip(" \t\r"))
            self.found.values[path] = Span(start, end)
            return
        self.found.values[path] = Span(start, self.at)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while self._skip(newlines=True) and self._peek() != "]":
            self._value((*path, index))
            index += 1
            self._skip(newlines=True)
            if self._peek() == ",":
                self.at += 1
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._skip(newlines=True) and self._peek() != "}":
            self._pair(path)
            self._skip(newlines=True)
            if self._peek() == ",":
                self.at += 1
        self.at += 1

    # -- characters -------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def _skip(self, *, newlines: bool) -> bool:
        """Go past blanks and comments; False at the end of the text."""
        blanks = " \t\r\n" if newlines else " \t"
        while self.at < len(self.text):
            if self.text[self.at] in blanks:
                self.at += 1
            elif newlines and self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return True
        return False

    def _string(self) -> str:
        quote = self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            return self._multiline(quote)
        self.at += 1
        start = self.at
        if quote == "'":
            self.at = self.text.index("'", start) + 1
            return self.text[start : self.at - 1]
        pieces: list[str] = []
        while self.text[self.at] != '"':
            if self.text[self.at] == "\\":
                pieces.append(self._escape())
            else:
                pieces.append(self.text[self.at])
                self.at += 1
        self.at += 1
        return "".join(pieces)

    def _escape(self) -> str:
        kind = self.text[self.at + 1]
        digits = {"x": 2, "u": 4, "U": 8}.get(kind)
        if digits is None:
            self.at += 2
            return _ESCAPES.get(kind, kind)
        start = self.at + 2
        self.at = start + digits
        return chr(int(self.text[start : self.at], 16))

    def _multiline(self, quote: str) -> str:
        """Go past a multi-line string. It is never a key, so its text is not needed."""
        self.at += 3
        while not self.text.startswith(quote * 3, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += 3
        # up to two quotes may stand right before the closing ones
        for _ in range(2):
            if self._peek() == quote:
                self.at += 1
        return ""
