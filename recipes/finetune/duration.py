"""How long a run will take: tokens from the data's characters, speed from past runs or work."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from engine.data.formats import read_examples
from engine.data.rows import read_rows
from engine.data.source import DataLocation, resolve_data
from engine.errors import BadInput
from engine.models import resolve_model
from recipes.finetune.calibration import Finished, past_speed, products_per_s
from recipes.finetune.schema import WITH_ADAPTER, FinetuneSpec
from recipes.loading.base import cache_folder

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from recipes.finetune.fit import Shape

#: What the child runs: texts as JSON on stdin, their counts of tokens as JSON on stdout.
_COUNT = """
import json, sys
texts = json.load(sys.stdin)
if sys.argv[1].endswith(".gguf"):
    from pathlib import Path
    from recipes.gguf.runtime import GgufModel
    with GgufModel(Path(sys.argv[1]), context=0) as exact:
        counts = [len(exact.tokenize(text)) for text in texts]
else:
    from tokenizers import Tokenizer
    exact = Tokenizer.from_file(sys.argv[1])
    counts = [len(exact.encode(text, add_special_tokens=False).ids) for text in texts]
print(json.dumps(counts))
"""

_MEASURED_ROWS = 5000
_TOKENIZED = 16
#: What a chat template puts around a turn, and in front of a conversation.
_TURN_TOKENS, _SYSTEM_TOKENS = 9, 24
#: Characters a token without a tokenizer: the least, and the usual.
_CAUTIOUS, _USUAL = 2.5, 4.0
#: Loading, sampling and publishing.
_START_SECONDS = 25.0
#: Of a core's fp32 products per second (numpy): what training reaches (135M model, 1 thread).
_SHARE_OF_PEAK = {"fp32": 0.6, "bf16": 1.05}
#: Speed gained by each further thread.
_THREAD_GAIN = 0.8
_SLOWER = {"dora": 0.6, "qlora": 0.9, "dpo": 0.3, "orpo": 0.4, "kto": 0.25}
_UNTIMED = frozenset({"grpo", "reward"})


@dataclass(frozen=True)
class RowTokens:
    """How many tokens the data have, told from their characters."""

    longest: int
    mean: float = 0.0
    count: int = 0
    held_out: float = 0.0
    """Tokens of all held-out rows."""


def row_tokens(spec: FinetuneSpec, paths: StatePaths) -> RowTokens:
    """Tokens per row, from the first rows of the file; the rest is told from the file's size.

    Rows are measured in characters; the longest ones are tokenized where the base's tokenizer is
    there, and tell how many characters make a token.
    """
    limit = spec.data.max_length if spec.data.max_length != "auto" else 1024
    if "${" in spec.data.train:
        return RowTokens(limit)
    location = resolve_data(spec.data.train, paths)
    tokenizer = tokenizer_file(spec, paths)
    longest, mean, count = _measure_rows(spec, location, tokenizer)
    length = max(16, min(limit, math.ceil(longest)))
    if spec.train.packing or spec.train.method == "pretrain":
        length = limit
    if spec.data.rows is not None:
        count = min(count, spec.data.rows)
    held_out = 0.0
    if spec.data.eval is not None and "${" not in spec.data.eval:
        _, per_row, many = _measure_rows(spec, resolve_data(spec.data.eval, paths), tokenizer)
        held_out = per_row * many
    elif spec.data.eval_fraction:
        held_out = mean * count * spec.data.eval_fraction
        count = round(count * (1 - spec.data.eval_fraction))
    return RowTokens(length, min(mean, limit), count, held_out)


def _measure_rows(
    spec: FinetuneSpec, location: DataLocation, tokenizer: Path
) -> tuple[float, float, int]:
    """``(longest, mean, rows)`` of one file: lengths in tokens."""
    rows = islice(read_rows(location.path, location.version), _MEASURED_ROWS)
    sizes: list[tuple[int, int]] = []
    longest: list[tuple[int, int, str]] = []
    for example in read_examples(rows, spec.data.format, spec.data.columns, location.name):
        text, turns = example.plain(), max(len(example.messages), 2)
        sizes.append((len(text), turns))
        heappush(longest, (len(text), turns, text))
        if len(longest) > _TOKENIZED:
            heappop(longest)
    looked_at = max(len(sizes), 1)
    characters = sum(size for size, _ in sizes)
    per_token, most = _characters_a_token(longest, tokenizer)
    mean = sum(size / per_token + _TURN_TOKENS * turns for size, turns in sizes) / looked_at
    count = len(sizes)
    if count == _MEASURED_ROWS and location.path.is_file() and characters:
        # the keys and quotes of a row of JSON take about a quarter
        count = max(count, round(location.path.stat().st_size / (1.25 * characters / count)))
    return most, mean + _SYSTEM_TOKENS / 2, count


def _characters_a_token(
    rows: Sequence[tuple[int, int, str]], tokenizer: Path
) -> tuple[float, float]:
    """``(characters a token, tokens of the longest)`` of rows given as (size, turns, text)."""
    if not rows:
        return _CAUTIOUS, 0.0
    counts: tuple[int, ...] = ()
    if tokenizer.is_file():
        try:
            counts = _token_counts(tuple(text for _, _, text in rows), tokenizer)
        except BadInput:
            if tokenizer.suffix == ".json":
                raise
            # a GGUF that llama.cpp can't read may still be unpacked: training will tell
    if not counts:
        # at least so many in the languages and code seen
        most = max(size / _CAUTIOUS + 16 * (turns + 1) for size, turns, _ in rows)
        return _USUAL, most
    most = max(
        count + _TURN_TOKENS * turns + _SYSTEM_TOKENS
        for count, (_, turns, _) in zip(counts, rows, strict=True)
    )
    return sum(size for size, _, _ in rows) / max(sum(counts), 1), most


def _token_counts(texts: tuple[str, ...], tokenizer: Path) -> tuple[int, ...]:
    """Tokens of each text, without special ones.

    The tokenizer takes 50 MB that are never given back: a process that has not loaded the library
    yet (the workbench) has them counted by a child, and remembers the answer.
    """
    if "tokenizers" in sys.modules and tokenizer.suffix == ".json":
        from tokenizers import Tokenizer

        exact = Tokenizer.from_file(str(tokenizer))
        return tuple(len(exact.encode(text, add_special_tokens=False).ids) for text in texts)
    return _counted_aside(texts, str(tokenizer), tokenizer.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _counted_aside(texts: tuple[str, ...], tokenizer: str, _changed: int) -> tuple[int, ...]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", _COUNT, tokenizer],
        input=json.dumps(texts).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise BadInput(
            f"{tokenizer} is no tokenizer", why=done.stderr.decode(errors="replace")[-300:]
        )
    return tuple(json.loads(done.stdout))


def tokenizer_file(spec: FinetuneSpec, paths: StatePaths) -> Path:
    """The base's ``tokenizer.json``; of a GGUF base that is not unpacked here, the file itself."""
    root = resolve_model(spec.base, paths).root
    if root.kind == "hf":
        return root.path / "tokenizer.json"
    unpacked = cache_folder(root, paths) / "tokenizer.json"
    return unpacked if unpacked.is_file() else root.path


def run_seconds(
    spec: FinetuneSpec,
    shape: Shape,
    rows: RowTokens,
    like: Finished,
    runs: Sequence[Finished],
    paths: StatePaths,
) -> float | None:
    """Wall seconds of the whole step: from the speed of past runs, else from the work to do.

    None for methods whose work depends on what is sampled, and on a GPU without a past run.
    """
    trained = trained_tokens(spec, rows)
    if trained is None or spec.train.method in _UNTIMED:
        return None
    speed = past_speed(runs, like)
    if speed is None:
        if like.device != "cpu":
            return None
        core = products_per_s(paths)
        if core is None:
            return None
        speed = expected_speed(spec, shape, like, core)
    held_out = 0.3 * rows.held_out * (1 if spec.train.eval_every is None else 3)
    return _START_SECONDS + (trained + held_out) / speed


def expected_speed(spec: FinetuneSpec, shape: Shape, like: Finished, core: float) -> float:
    """Tokens per second from operations per token and what a core multiplies."""
    per_weight = 4.0 if spec.train.method in WITH_ADAPTER else 6.0
    if spec.train.checkpointing:
        per_weight += 2.0
    operations = per_weight * (shape.linear + shape.embedding)
    threads = 1 + _THREAD_GAIN * (like.threads - 1)
    share = _SHARE_OF_PEAK[like.precision] * (_SLOWER.get(spec.train.method, 1.0))
    return core * share * threads / operations


def trained_tokens(spec: FinetuneSpec, rows: RowTokens) -> float | None:
    """Tokens the whole run will see; None where the data are not known yet."""
    if not rows.count:
        return None
    if spec.train.max_steps is not None:
        batch = spec.train.batch if spec.train.batch != "auto" else 8
        per_row = rows.longest if spec.train.packing else rows.mean
        return float(spec.train.max_steps * batch * spec.train.accumulate * per_row)
    return spec.train.epochs * rows.count * rows.mean
