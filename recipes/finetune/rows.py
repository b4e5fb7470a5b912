"""The run's rows: read, told apart, encoded, counted, split; and packed into sequences."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.duplicates import DuplicateIndex
from engine.data.formats import Example, Message, read_examples
from engine.data.masks import Encoded, Encoder
from engine.data.report import DataReport, encode_all
from engine.data.rows import read_rows
from engine.data.source import DataLocation, resolve_data
from engine.errors import BadInput
from engine.paths import StatePaths

if TYPE_CHECKING:
    import numpy

    from recipes.finetune.schema import FinetuneData, FinetuneSpec

#: Above so many rows near duplicates are looked for in the report action only.
_LOOK_FOR_DUPLICATES = 200_000


@dataclass(frozen=True)
class TokenRow:
    """One row's tokens, compactly: ``ids`` int32, ``trained`` bool, both of shape (length,)."""

    ids: numpy.ndarray[Any, Any]
    trained: numpy.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Prepared:
    """What a supervised run learns from and is measured on."""

    train: list[TokenRow]
    held_out: list[TokenRow]
    report: DataReport
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    """Conversations up to an assistant's turn, for samples before and after."""
    sources: tuple[DataLocation, ...] = ()


def examples_of(
    data: FinetuneData, location: DataLocation, format_name: str | None = None
) -> Iterator[Example]:
    """Canonical examples of one data reference of a recipe."""
    rows = read_rows(location.path, location.version)
    return read_examples(rows, format_name or data.format, data.columns, location.name)


def split(
    examples: Sequence[Example], data: FinetuneData, seed: int
) -> tuple[list[Example], list[Example]]:
    """``(train, held_out)`` by ``rows`` and ``eval_fraction``; the order of the file is kept.

    Raises:
        BadInput: a split would be empty.
    """
    chosen = list(range(len(examples)))
    if data.rows is not None and data.rows < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, data.rows))  # noqa: S311  no secret
    held: set[int] = set()
    if data.eval_fraction:
        count = round(len(chosen) * data.eval_fraction)
        if not 0 < count < len(chosen):
            raise BadInput(
                f"data.eval_fraction = {data.eval_fraction} leaves an empty split",
                why=f"there are {len(chosen)} rows",
                hint="give more rows, another fraction, or a file as data.eval",
            )
        held = set(random.Random(seed + 1).sample(chosen, count))  # noqa: S311
    return (
        [examples[i] for i in chosen if i not in held],
        [examples[i] for i in sorted(held)],
    )


def prepare(spec: FinetuneSpec, encoder: Encoder, paths: StatePaths, max_length: int) -> Prepared:
    """Read and encode the recipe's data for supervised training.

    Raises:
        BadInput: bad rows, no row left to learn from, or an empty held-out split.
    """
    data = spec.data
    location = resolve_data(data.train, paths)
    sources = [location]
    train, held = split(list(examples_of(data, location)), data, spec.seed)
    if data.eval is not None:
        sources.append(resolve_data(data.eval, paths))
        held = list(examples_of(data, sources[-1]))
    report = DataReport(
        location.name,
        format=train[0].shape if train else data.format,
        max_length=None if spec.train.method == "pretrain" else max_length,
        on_truncate=data.on_truncate,
    )
    index = DuplicateIndex() if len(train) <= _LOOK_FOR_DUPLICATES else None
    rows = compact(
        encode_all(
            train,
            encoder,
            report,
            index=index,
            drop_duplicates=data.duplicates == "drop",
            held_out=held,
        )
    )
    if not rows:
        raise BadInput(
            f"no row of {location.name} is left to learn from",
            why="; ".join(report.warnings()) or f"it has {report.rows} rows",
            hint="see the data report: modelops-tui data check",
        )
    kept = compact(encoder.encode(example, max_length) for example in held)
    if held and not any(row.trained.any() for row in kept):
        raise BadInput("the held-out rows have nothing to measure", why=f"{len(held)} rows")
    if spec.train.method == "pretrain":
        rows = blocks(rows, max_length)
    prompts = list(prompts_of(held or train, spec.train.samples))
    return Prepared(rows, kept, report, prompts, tuple(sources))


def compact(encoded: Iterable[Encoded]) -> list[TokenRow]:
    """Rows as small arrays: 5 bytes a token where Python lists take 16."""
    import numpy as np

    return [
        TokenRow(np.array(row.ids, dtype=np.int32), np.array(row.trained, dtype=bool))
        for row in encoded
    ]


def prompts_of(examples: Sequence[Example], count: int) -> Iterator[tuple[Message, ...]]:
    """The conversations of the first ``count`` chat examples up to the last assistant turn."""
    for example in examples:
        if count <= 0:
            return
        turns = [i for i, m in enumerate(example.messages) if m["role"] == "assistant"]
        if turns and turns[-1] > 0:
            count -= 1
            yield example.messages[: turns[-1]]
        elif example.shape == "completion" and example.prompt:
            count -= 1
            yield ({"role": "user", "content": str(example.prompt)},)


def blocks(rows: Sequence[TokenRow], length: int) -> list[TokenRow]:
    """Pre-training blocks: all texts one after the other, cut every ``length`` tokens.

    The last, shorter block is kept: no text is lost.
    """
    import numpy as np

    ids = np.concatenate([row.ids for row in rows])
    trained = np.concatenate([row.trained for row in rows])
    return [
        TokenRow(ids[i : i + length], trained[i : i + length])
        for i in range(0, len(ids), length)
        if len(ids[i : i + length]) > 1
    ]


def pack(rows: Sequence[TokenRow], length: int, shared: int = 0) -> list[list[int]]:
    """Best-fit decreasing: which rows share a sequence of at most ``length`` tokens.

    Args:
        rows: what is packed; none is longer than ``length``.
        length: tokens a sequence holds.
        shared: tokens at the beginning of every row that a sequence holds once.

    Returns:
        Indices into ``rows``; every row is in exactly one sequence.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in order:
        size = len(rows[index]) - shared
        place = bisect_left(room, (size, -1))
        if place < len(room):
            free, target = room.pop(place)
            sequences[target].append(index)
        else:
            free, target = length - shared, len(sequences)
            sequences.append([index])
        if free > size:
            insort(room, (free - size, target))
    return sequences


def data_files(prepared: Prepared) -> list[Path]:
    """The files behind the run's data, for its configuration hash."""
    return [source.path for source in prepared.sources]
