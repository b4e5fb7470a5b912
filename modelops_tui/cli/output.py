"""The one writer of stdout (results) and of stderr (narration and errors), and the exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import ModelOpsError

if TYPE_CHECKING:
    from engine.types.recipes import Diagnostic


#: A column of text is never cut to fewer columns than these.
_SHORTEST = 12


class ExitCode(IntEnum):
    """What the process's exit status means (the values of ``ModelOpsError.exit_status``)."""

    OK = 0
    ERROR = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    REFUSED = 5
    INTEGRITY = 6
    ENGINE_UNAVAILABLE = 7
    OUT_OF_SPACE = 8
    DOES_NOT_FIT = 9
    JOB_FAILED = 10
    MISSING_PART = 11
    JOB_CANCELLED = 12
    JOB_PAUSED = 13
    DETACHED = 130


class Format(StrEnum):
    """How a result is written to stdout."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def printable(text: object) -> str:
    """``text`` with every control, bidi and other unprintable character made visible.

    Names come from files and remotes; none of them may move the cursor or fool a reader.
    """
    out = []
    for char in str(text):
        category = unicodedata.category(char)
        if char in "\n\t" or category not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            out.append(char)
        else:
            out.append(f"\\u{ord(char):04x}")
    return "".join(out)


def width(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


class Output:
    """Writes results and narration; every command uses the one instance ``out``."""

    def __init__(self) -> None:
        self.format = Format.TABLE
        self.quiet = False

    def choose(self, *, as_json: bool = False, jsonl: bool = False, as_csv: bool = False) -> None:
        """Pick the format from a command's flags (the last true one wins; none keeps the table)."""
        for chosen, wanted in ((Format.CSV, as_csv), (Format.JSONL, jsonl), (Format.JSON, as_json)):
            if wanted:
                self.format = chosen

    # -- stdout -----------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """One line of result text."""
        self._write(printable(text) + "\n")

    def raw(self, text: str) -> None:
        """Text that must pass through unchanged (a log, a file's bytes as text)."""
        self._write(text)

    def json(self, value: Any) -> None:
        """One JSON document."""
        self._write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")

    def json_line(self, value: Any) -> None:
        """One JSON document on one line, at once."""
        self._write(json.dumps(value, ensure_ascii=False, default=str) + "\n")

    def rows(
        self,
        columns: Sequence[str],
        rows: Iterable[Mapping[str, Any]],
        *,
        titles: Mapping[str, str] | None = None,
        empty: str = "",
    ) -> None:
        """Rows as a table, JSON array, JSON lines or CSV, by the chosen format.

        Args:
            columns: the keys shown in a table and in CSV (JSON writes every key).
            rows: mappings; values are shown by ``str`` in tables, ``-`` for None.
            titles: column headings where they differ from the key.
            empty: what stderr says when there is no row (the empty state: what to do next).
        """
        items = list(rows)
        if self.format is Format.JSON:
            self.json(items)
        elif self.format is Format.JSONL:
            for item in items:
                self._write(json.dumps(item, ensure_ascii=False, default=str) + "\n")
        elif self.format is Format.CSV:
            buffer = io.StringIO()
            writer = csv.DictWriter(
                buffer, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(items)
            self._write(buffer.getvalue())
        elif items:
            self.table(columns, items, titles or {})
        elif empty:
            self.say(empty)

    def record(self, value: Mapping[str, Any]) -> None:
        """One thing, as ``key  value`` lines or as JSON."""
        if self.format is not Format.TABLE:
            self.json(dict(value))
            return
        longest = max((len(key) for key in value), default=0)
        for key, item in value.items():
            if isinstance(item, (dict, list)):
                item = json.dumps(item, ensure_ascii=False, default=str)
            self.line(f"{key:<{longest}}  {'-' if item is None else item}")

    def columns(self) -> int | None:
        """Columns of the terminal on stdout, or None where it is none (a file or a pipe)."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def table(
        self,
        columns: Sequence[str],
        items: Sequence[Mapping[str, Any]],
        titles: Mapping[str, str] | None = None,
        *,
        fold: bool = False,
    ) -> bool:
        """Aligned columns, whatever the format: for reports made of several tables.

        On a terminal that is too narrow long texts are cut, but never the first column, which
        names the row. Elsewhere everything is written.

        Args:
            columns: the keys, in their order.
            items: the rows.
            titles: column headings where they differ from the key.
            fold: instead of cutting, go on below with the columns that had no room, the first
                column repeated.
        """
        titles = titles or {}
        head = [titles.get(column, column) for column in columns]
        body = [["-" if item.get(c) is None else _cell(item[c]) for c in columns] for item in items]
        widths = [max(width(row[i]) for row in [head, *body]) for i in range(len(columns))]
        numeric = [all(_numeric(item.get(c)) for item in items) for c in columns]
        room = self.columns()
        blocks = [list(range(len(columns)))]
        if room is not None and sum(widths) + 2 * len(widths) - 2 > room:
            if fold:
                blocks = _blocks(widths, room)
            else:
                _shrink(widths, numeric, room)
        for number, block in enumerate(blocks):
            if number:
                self._write("\n")
            for row in [head, *body]:
                cells = [_fit(row[i], widths[i], numeric[i]) for i in block]
                self._write("  ".join(cells).rstrip() + "\n")
        return any(width(row[i]) > widths[i] for row in body for i in range(len(columns)))

    def _write(self, text: str) -> None:
        """Every byte of stdout goes through here; a reader that left (``| head``) is no error."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # click would end with 1, and the interpreter would complain at its last flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.OK)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.fail(ModelOpsError("stdout can't be written", why=error.strerror or str(error)))

    # -- stderr -----------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Narration: what is being done, what to do next."""
        if not self.quiet:
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def status(self, text: str) -> None:
        """A line that replaces itself on a terminal and is dropped elsewhere."""
        if sys.stderr.isatty() and not self.quiet:
            room = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            sys.stderr.write("\r\x1b[K" + printable(text).replace("\n", " ")[:room])
            sys.stderr.flush()

    def status_clear(self) -> None:
        """Take the status line away, so that something else can be said in its place."""
        if sys.stderr.isatty() and not self.quiet:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def status_end(self) -> None:
        """Leave the status line behind and go on below it."""
        if sys.stderr.isatty() and not self.quiet:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def error(self, error: ModelOpsError) -> None:
        """``error: what``, its reason and its hint; JSON on stdout as well under ``--json``."""
        diagnostics = getattr(error, "diagnostics", ())
        if self.format is not Format.TABLE:
            described: dict[str, Any] = dict(error.to_json())
            if diagnostics:
                described["diagnostics"] = [asdict(item) for item in diagnostics]
            self.json({"error": described})
        for item in diagnostics:
            self.diagnostic(item)
        sys.stderr.write(f"error: {printable(error.what)}\n")
        if error.why:
            sys.stderr.write(f"  {printable(error.why)}\n")
        if error.hint:
            sys.stderr.write(f"hint: {printable(error.hint)}\n")
        sys.stderr.flush()

    def diagnostic(self, item: Diagnostic) -> None:
        """A mistake in a recipe: place, line, caret, advice."""
        from engine.recipe.diagnostics import render

        sys.stderr.write(printable(render(item)) + "\n\n")
        sys.stderr.flush()

    def fail(self, error: ModelOpsError) -> NoReturn:
        """Show ``error`` and leave with its exit status."""
        self.error(error)
        sys.exit(error.exit_status)


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns that fit beside one another, block by block; each begins with the first column."""
    blocks: list[list[int]] = []
    used = room + 1
    for index in range(1, len(widths)):
        if used + 2 + widths[index] > room:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(index)
        used += 2 + widths[index]
    return blocks or [[0]]


def _shrink(widths: list[int], numeric: Sequence[bool], room: int) -> None:
    """Take from the widest columns of text but the first until the table fits, or all are short."""
    texts = [i for i in range(1, len(widths)) if not numeric[i]]
    while texts and sum(widths) + 2 * len(widths) - 2 > room:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= _SHORTEST:
            return
        widths[widest] -= 1


def _fit(text: str, room: int, right: bool) -> str:
    """``text`` padded, or cut with an ellipsis, to ``room`` columns."""
    if width(text) > room:
        while width(text) > room - 1:
            text = text[:-1]
        text += "…"
    pad = " " * (room - width(text))
    return pad + text if right else text + pad


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value).replace("\n", " ")


def _numeric(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


out = Output()
