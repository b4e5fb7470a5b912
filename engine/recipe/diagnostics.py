"""Collects every mistake with its place, and renders them the way rustc does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from engine.recipe.positions import KeyPath, Positions, Span
from engine.recipe.reading import Source
from engine.types.recipes import Diagnostic


@dataclass(frozen=True)
class Override:
    """A ``--set`` text and where its value stands in it."""

    text: str
    key: Span
    value: Span


@dataclass
class Collector:
    """The mistakes of one recipe. A place and a sentence are reported once."""

    source: Source
    positions: Positions
    overrides: Mapping[KeyPath, Override] = field(default_factory=dict)
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    """Where a value was really written, for values that a matrix put into a step."""
    found: list[Diagnostic] = field(default_factory=list)

    def add(
        self,
        path: KeyPath,
        what: str,
        advice: str = "",
        *,
        at: Literal["key", "value"] = "value",
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Report a mistake about ``path`` (from the root of the document)."""
        label, line, column, length, text = self._place(path, at)
        key = ".".join(str(part) for part in path)
        diagnostic = Diagnostic(label, line, column, what, advice, text, length, key, severity)
        if not any(
            (d.path, d.line, d.column, d.what) == (label, line, column, what) for d in self.found
        ):
            self.found.append(diagnostic)

    def has_error_at(self, path: KeyPath) -> bool:
        """True when an error stands at ``path`` already."""
        key = ".".join(str(part) for part in path)
        return any(d.key == key and d.severity == "error" for d in self.found)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in sorted_diagnostics(self.found) if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in sorted_diagnostics(self.found) if d.severity == "warning")

    def _place(self, path: KeyPath, at: str) -> tuple[str, int, int, int, str]:
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                path = (*origin, *path[length:])
                break
        for length in range(len(path), 0, -1):
            override = self.overrides.get(path[:length])
            if override is not None:
                span = override.key if at == "key" else override.value
                width = max(1, span.end - span.start)
                return "--set", 1, span.start + 1, width, override.text
        found = self.positions.key(path) if at == "key" else self.positions.value(path)
        span = found or self._top()
        line, column = self.positions.line_column(span.start)
        text = self.positions.line_text(line)
        length = max(1, min(span.end - span.start, len(text) - column + 1))
        return self.source.label, line, column, length, text

    def _top(self) -> Span:
        """The place of mistakes about the recipe as a whole: its ``kind``, else the first key."""
        for key in ("kind", "recipe", "name"):
            if (key,) in self.positions.keys:
                return self.positions.keys[(key,)]
        return min(self.positions.keys.values(), key=lambda s: s.start, default=Span(0, 0))


def sorted_diagnostics(items: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By place: the file first, then the overrides."""
    return sorted(items, key=lambda d: (d.path == "--set", d.path, d.line, d.column, d.what))


def render(diagnostic: Diagnostic) -> str:
    """``file:line:column: what``, the line, a caret under it, the advice."""
    head = f"{diagnostic.path}:{diagnostic.line}:{diagnostic.column}: "
    if diagnostic.severity == "warning":
        head += "warning: "
    lines = [head + diagnostic.what]
    if diagnostic.source_line.strip():
        number = str(diagnostic.line)
        text = diagnostic.source_line
        start = min(diagnostic.column - 1, len(text))
        before = "".join(_blank(char) for char in text[:start])
        under = text[start : start + diagnostic.length] or " "
        carets = "^" * max(1, sum(_width(char) for char in under))
        lines.append(f"  {number} | {text}")
        lines.append(f"  {' ' * len(number)} | {before}{carets}")
    if diagnostic.advice:
        pad = " " * (2 + len(str(diagnostic.line)))
        lines.append(f"{pad} = {diagnostic.advice}")
    return "\n".join(lines)


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _blank(char: str) -> str:
    # a tab stays a tab, so that the caret meets its column whatever the tab's width
    return "\t" if char == "\t" else " " * _width(char)
