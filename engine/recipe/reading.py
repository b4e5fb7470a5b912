"""A recipe's text and its TOML, or the one syntax error with advice."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound, RecipeInvalid
from engine.recipe.nearest import nearest
from engine.types.recipes import Diagnostic

#: A recipe is written by a person; anything larger is another file by mistake.
MAX_BYTES = 1 << 20
_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Source:
    """The text of a recipe and where it comes from."""

    text: str
    path: Path | None

    @property
    def label(self) -> str:
        """How errors name it: the path relative to the current folder where that is shorter."""
        if self.path is None:
            return "<recipe>"
        relative = os.path.relpath(self.path)
        return relative if not relative.startswith("..") else str(self.path)

    @property
    def folder(self) -> Path:
        """Where its relative paths start."""
        return self.path.parent if self.path is not None else Path.cwd()


def read_source(source: Path | str, source_path: Path | None = None) -> Source:
    """The text of a file, or a text that is given.

    Raises:
        NotFound: no such file, with the nearest name beside it.
        BadInput: a folder, too large, or not UTF-8 text.
    """
    if isinstance(source, str):
        return Source(source, source_path.absolute() if source_path else None)
    path = source.expanduser().absolute()
    try:
        if path.is_dir():
            raise BadInput(f"{source} is a folder", hint="name a recipe file inside it")
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(
                f"{source} is too large for a recipe",
                why=f"{path.stat().st_size} bytes; a recipe has at most {MAX_BYTES}",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _missing(source, path) from error
    except OSError as error:
        raise BadInput(f"{source} can't be read", why=error.strerror or str(error)) from error
    return Source(_decode(data, source), path)


def _missing(source: Path, path: Path) -> NotFound:
    beside = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    return NotFound(
        f"there is no recipe file {source}",
        hint=f"did you mean {source.with_name(close)}?"
        if close
        else "`modelops-tui recipe list` shows the library",
    )


def _decode(data: bytes, source: Path) -> str:
    try:
        # a byte order mark is harmless; \r\n stays, TOML allows it
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{source} is not UTF-8 text",
            why=f"byte 0x{data[error.start]:02x} in line {line}",
            hint="save the file as UTF-8 (without BOM)",
        ) from error
    return text


def parse(source: Source) -> dict[str, Any]:
    """The TOML document.

    Raises:
        RecipeInvalid: with the syntax error (tomllib stops at the first).
    """
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        diagnostic = _syntax(source, str(error))
    except RecursionError:
        diagnostic = Diagnostic(source.label, 1, 1, "the values are nested too deeply")
    raise RecipeInvalid(f"{source.label} is not valid TOML", (diagnostic,))


def _syntax(source: Source, message: str) -> Diagnostic:
    lines = source.text.splitlines() or [""]
    match = _AT.search(message)
    line, column = len(lines), len(lines[-1]) + 1
    if match and match.group(1):
        line, column = int(match.group(1)), int(match.group(2))
    what = _AT.sub("", message)
    if line > len(lines):
        line, column = len(lines), len(lines[-1]) + 1
    text = lines[line - 1]
    if column > len(text) and text.strip() == "" and line > 1:
        # "at the end of the line before" reads better than a caret under nothing
        line -= 1
        text = lines[line - 1]
        column = len(text) + 1
    advice = _advice(text, what)
    return Diagnostic(source.label, line, column, f"not valid TOML: {_lower(what)}", advice, text)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_BARE_VALUE = re.compile(r"""^\s*[\w."'-]+\s*=\s*([A-Za-z_~/.][^"'\[\]{}#,]*?)\s*(?:#.*)?$""")


def _advice(line: str, what: str) -> str:
    """What to write instead, for the slips that people make."""
    bare = _BARE_VALUE.match(line)
    value = bare.group(1).strip() if bare else ""
    if any(quote in line for quote in "“”„‘’"):
        return 'typographic quotes: use straight ones (")'
    if value in ("True", "False", "TRUE", "FALSE", "yes", "no", "on", "off"):
        return f"write {'true' if value.lower() in ('true', 'yes', 'on') else 'false'}"
    if value in ("None", "null", "nil", "none"):
        return "TOML has no null: leave the key out"
    if value:
        return f'text needs quotes: "{value}"'
    if "overwrite" in what.lower() or "twice" in what.lower() or "redefine" in what.lower():
        return "a key or table may be written once: merge the two"
    if re.match(r"^\s*[\w.-]+\s*:\s", line):
        return "this looks like YAML: write key = value (or use `modelops-tui recipe import`)"
    if line.strip().startswith("{"):
        return "this looks like JSON: write key = value lines"
    if "\\" in line and '"' in line and "escape" in what.lower():
        return "a backslash in text: write it twice, or use 'single quotes'"
    return ""
