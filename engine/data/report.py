"""The data report: what a run will really learn from, counted before step 1.

Peers truncate answers, lose end tokens and drop rows without a word; here every such row is counted
and the first of them are named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from engine.data.duplicates import DuplicateIndex
from engine.data.formats import Example
from engine.data.masks import Encoded, Encoder, TemplateProblem
from engine.errors import BadInput

_NAMED = 10
#: Rows whose texts go to the tokenizer together.
_WINDOW = 256
#: The tokenizers library asks for it whenever it gets a batch.
_PARALLEL = "TOKENIZERS_PARALLELISM"
_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
#: ``{{name}}``, ``<your name>``, ``[INSERT ...]``, ``${name}``, ``TODO``: text nobody filled in.
PLACEHOLDER = re.compile(
    r"\{\{\s*[\w.]+\s*\}\}|\$\{\w+\}|<(?:your|insert|enter)[ _-][\w -]{1,40}>"
    r"|\[(?:INSERT|YOUR|TODO|PLACEHOLDER)[^\]]{0,40}\]|\bTODO:|\blorem ipsum\b",
    re.IGNORECASE,
)
#: What every placeholder has; a quick look before the slow one.
_MARKS = re.compile(r"\{\{|\$\{|<[yieYIE]|\[[iytpIYTP]|[tT][oO][dD][oO]:|[lL][oO][rR][eE][mM] ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_CONTROL_BYTES = bytes([*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_RUN = re.compile(r"(\S)\1{49,}|(\S{1,20}\s)\2{19,}")
#: Without so many equal words, and without so long a word, ``_RUN`` matches nothing.
_EQUAL_WORDS, _LONG_WORD = 18, 50


@dataclass
class Tally:
    """How many rows have a property, and the numbers of the first of them."""

    count: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.rows) < _NAMED:
            self.rows.append(number)

    def named(self) -> str:
        """``12, 40, 77 ...`` for a table."""
        more = " ..." if self.count > len(self.rows) else ""
        return ", ".join(map(str, self.rows)) + more


@dataclass
class DataReport:
    """Counts over one file for one tokenizer and one ``max_length``. Lengths are in tokens."""

    source: str
    format: str = "auto"
    max_length: int | None = None
    on_truncate: str = "drop"
    rows: int = 0
    used: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    too_long: Tally = field(default_factory=Tally)
    """Rows longer than ``max_length``."""
    lost_end: Tally = field(default_factory=Tally)
    """Rows whose learned text has no end token, or loses it when cut to ``max_length``."""
    nothing_to_learn: Tally = field(default_factory=Tally)
    """Rows without one learned token (after the cut): they are left out."""
    exact_duplicates: Tally = field(default_factory=Tally)
    near_duplicates: Tally = field(default_factory=Tally)
    placeholders: Tally = field(default_factory=Tally)
    empty: Tally = field(default_factory=Tally)
    absurd: Tally = field(default_factory=Tally)
    """Control characters, or one character or word over and over."""
    refused: Tally = field(default_factory=Tally)
    """Rows that the chat template refuses."""
    overlap: Tally = field(default_factory=Tally)
    """Held-out rows that repeat a training row."""
    dropped: int = 0
    histogram: dict[str, int] = field(default_factory=dict)
    first_refusal: str = ""

    def measure(self, encoded: Encoded) -> None:
        """Count one row's tokens (before any cut)."""
        self.longest = max(self.longest, encoded.length)
        bucket = next((f"<= {b}" for b in _BUCKETS if encoded.length <= b), f"> {_BUCKETS[-1]}")
        self.histogram[bucket] = self.histogram.get(bucket, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """Every count as JSON; tallies become ``{count, rows}``."""
        values: dict[str, Any] = {}
        for key, value in vars(self).items():
            if isinstance(value, Tally):
                value = {"count": value.count, "rows": list(value.rows)}
            values[key] = value
        values["histogram"] = self.ordered_histogram()
        return values

    def ordered_histogram(self) -> list[tuple[str, int]]:
        """``(bucket, rows)`` from short to long, without empty buckets."""
        names = [*(f"<= {b}" for b in _BUCKETS), f"> {_BUCKETS[-1]}"]
        return [(name, self.histogram[name]) for name in names if name in self.histogram]

    def table(self) -> dict[str, Any]:
        """The report as a ``table`` event."""
        lines: list[tuple[str, object, str]] = [
            ("rows", self.rows, ""),
            ("rows used", self.used, ""),
            ("tokens", self.tokens, f"longest row {self.longest}"),
            ("tokens learned", self.trained_tokens, _percent(self.trained_tokens, self.tokens)),
            (f"longer than {self.max_length}", self.too_long.count, self.too_long.named()),
            ("without end token", self.lost_end.count, self.lost_end.named()),
            ("nothing to learn", self.nothing_to_learn.count, self.nothing_to_learn.named()),
            ("exact duplicates", self.exact_duplicates.count, self.exact_duplicates.named()),
            ("near duplicates", self.near_duplicates.count, self.near_duplicates.named()),
            ("unfilled placeholders", self.placeholders.count, self.placeholders.named()),
            ("empty", self.empty.count, self.empty.named()),
            ("absurd", self.absurd.count, self.absurd.named()),
            ("refused by the template", self.refused.count, self.refused.named()),
            ("held-out rows also in train", self.overlap.count, self.overlap.named()),
        ]
        notes = [f"{name} tokens: {count} rows" for name, count in self.ordered_histogram()]
        if self.format == "prompt":
            notes.append(
                "read as prompts alone (for GRPO): an answer to learn stands in 'completion'"
            )
        if self.first_refusal:
            notes.append(self.first_refusal)
        return {
            "title": f"Data report: {self.source}",
            "columns": ["what", "count", "rows"],
            "rows": [list(line) for line in lines],
            "notes": notes,
        }

    def warnings(self) -> list[str]:
        """What a person should read even without the table."""
        found = []
        if self.too_long.count and self.on_truncate == "truncate":
            found.append(
                f"{self.too_long.count} rows are cut to {self.max_length} tokens and lose their end"
            )
        elif self.too_long.count:
            found.append(
                f"{self.too_long.count} rows are longer than {self.max_length} tokens: left out"
            )
        for tally, text in (
            (self.nothing_to_learn, "rows have nothing to learn from: left out"),
            (self.placeholders, "rows hold unfilled placeholders"),
            (self.overlap, "held-out rows repeat training rows: the evaluation flatters"),
            (self.empty, "rows are empty"),
            (self.refused, "rows are refused by the chat template: left out"),
        ):
            if tally.count:
                found.append(f"{tally.count} {text} (rows {tally.named()})")
        return found


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def look(report: DataReport, window: Sequence[Example], index: DuplicateIndex | None) -> list[bool]:
    """Count what needs no tokens: duplicates, placeholders, emptiness. True for exact repeats."""
    texts = [example.plain() for example in window]
    for example, plain in zip(window, texts, strict=True):
        number = example.number
        report.rows += 1
        if _may_be_unfilled(plain) and PLACEHOLDER.search(plain):
            report.placeholders.add(number)
        if _is_empty(example, plain):
            report.empty.add(number)
        elif _has_control(plain) or _is_a_run(plain):
            report.absurd.add(number)
    if index is None:
        return [False] * len(window)
    repeats = index.add_many([example.number for example in window], texts)
    for example, found in zip(window, repeats, strict=True):
        if found is not None:
            tally = report.exact_duplicates if found[0] == "exact" else report.near_duplicates
            tally.add(example.number)
    return [found is not None and found[0] == "exact" for found in repeats]


def _may_be_unfilled(plain: str) -> bool:
    """A quick look before the slow pattern: what every placeholder has."""
    if "{{" in plain or "${" in plain or "<" in plain or "[" in plain:
        return _MARKS.search(plain) is not None
    lowered = plain.lower()
    return "todo:" in lowered or "lorem " in lowered


def _has_control(plain: str) -> bool:
    if plain.isascii():
        raw = plain.encode("ascii")
        return len(raw.translate(None, _CONTROL_BYTES)) != len(raw)
    return _CONTROL.search(plain) is not None


def _is_a_run(plain: str) -> bool:
    """Whether one character or word is repeated over and over."""
    words = plain.split()
    # a quick look first: such a run is one very long word, or many equal ones
    if len(words) - len(set(words)) < _EQUAL_WORDS and max(map(len, words), default=0) < _LONG_WORD:
        return False
    return _RUN.search(plain) is not None


def _is_empty(example: Example, plain: str) -> bool:
    if not plain.strip():
        return True
    if example.shape == "chat":
        return any(
            not str(m.get("content") or "").strip() and not m.get("tool_calls")
            for m in example.messages
            if m["role"] in ("user", "assistant")
        )
    if example.shape in ("completion", "preference", "kto"):
        pieces = [example.prompt, example.completion]
        if example.shape == "preference":
            pieces.append(example.rejected)
        return any(not str(_words(piece)).strip() for piece in pieces)
    return False


def _words(piece: str | tuple[dict[str, Any], ...]) -> str:
    return piece if isinstance(piece, str) else "".join(str(m.get("content")) for m in piece)


def encode_all(
    examples: Iterable[Example],
    encoder: Encoder,
    report: DataReport,
    *,
    index: DuplicateIndex | None = None,
    drop_duplicates: bool = False,
    held_out: Iterable[Example] = (),
) -> Iterator[Encoded]:
    """Encode examples one by one, counting as they pass; yields the rows that are learned from.

    Args:
        examples: canonical examples.
        encoder: the tokenizer's encoder.
        report: filled while iterating; complete at the end.
        index: finds duplicates (None: not looked for).
        drop_duplicates: leave exact repetitions out.
        held_out: the evaluation split, checked for rows that are in ``examples`` too.

    Raises:
        BadInput: ``on_truncate = "fail"`` and a row is too long, or every row is refused.
    """
    for example, encoded, repeated in _in_windows(examples, encoder, report, index):
        if isinstance(encoded, TemplateProblem):
            report.refused.add(example.number)
            report.first_refusal = report.first_refusal or f"row {example.number}: {encoded}"
            report.dropped += 1
            continue
        if drop_duplicates and repeated:
            report.dropped += 1
            continue
        kept = _fit(encoded, encoder, report)
        if kept is None:
            report.dropped += 1
            continue
        report.used += 1
        report.tokens += len(kept.ids)
        report.trained_tokens += sum(kept.trained)
        yield kept
    if report.on_truncate == "fail" and report.too_long.count:
        raise BadInput(
            f"{report.source}: {report.too_long.count} rows are longer than {report.max_length}",
            why=f"rows {report.too_long.named()}; the longest has {report.longest} tokens",
            hint='raise data.max_length, or set data.on_truncate = "drop" or "truncate"',
        )
    if report.rows and report.refused.count == report.rows:
        raise BadInput(
            f"the chat template refuses every row of {report.source}",
            why=report.first_refusal,
            hint="look at one row with: modelops-tui data mask",
        )
    if index is not None:
        rows = iter(held_out)
        while window := list(islice(rows, _WINDOW)):
            repeats = index.find_many([example.plain() for example in window])
            for example, found in zip(window, repeats, strict=True):
                if found is not None:
                    report.overlap.add(example.number)


def _in_windows(
    examples: Iterable[Example], encoder: Encoder, report: DataReport, index: DuplicateIndex | None
) -> Iterator[tuple[Example, Encoded | TemplateProblem, bool]]:
    """Each example with its tokens and whether it repeats an earlier one exactly.

    While the tokenizer works on a window (without the interpreter's lock), what needs no tokens is
    looked at here.
    """
    rows = iter(examples)
    with several_threads(), ThreadPoolExecutor(1, thread_name_prefix="tokens") as pool:
        while window := list(islice(rows, _WINDOW)):
            tokens = pool.submit(encoder.start(window))
            repeated = look(report, window, index)
            yield from zip(window, tokens.result(), repeated, strict=True)


@contextmanager
def several_threads() -> Iterator[None]:
    """Inside, the tokenizer uses the threads this process was given (all where it was not told).

    Elsewhere it is held to one: a process that forks after its threads have run may stand still.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit():
        # read once, when the first batch is cut
        os.environ.setdefault("RAYON_NUM_THREADS", told)
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false" if told == "1" else "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLEL]
        else:
            os.environ[_PARALLEL] = before


def _fit(encoded: Encoded, encoder: Encoder, report: DataReport) -> Encoded | None:
    report.measure(encoded)
    limit = report.max_length
    if limit is not None and encoded.length > limit:
        report.too_long.add(encoded.number)
        cut = encoder.cut(encoded, limit)
        if not cut.ends:
            report.lost_end.add(encoded.number)
        if not any(cut.trained):
            report.nothing_to_learn.add(encoded.number)
            return None
        return cut if report.on_truncate == "truncate" else None
    if report.format == "prompt":
        # a question alone: answers will be sampled, nothing here is learned
        return encoded
    if not any(encoded.trained):
        report.nothing_to_learn.add(encoded.number)
        return None
    if not encoded.ends:
        report.lost_end.add(encoded.number)
    return encoded
