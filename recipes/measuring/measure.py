"""Perplexity, KL divergence and top-1 agreement of a model against its source, window by window.

The source's log-probabilities are computed once and kept in half precision in a file (tokens x
vocabulary x 2 B); each result is compared against it in slabs that fit the processor's cache.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import BadInput, OutOfSpace

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: Rows of logits handled at once: 64 x 49,152 x 4 B is 12 MB.
_SLAB = 64

Progress = Callable[[int, int], None]


class Scorer(Protocol):
    """Anything that gives the logits after each token of one sequence."""

    n_vocab: int

    def logits(self, tokens: Sequence[int]) -> Array:
        """``(len(tokens), n_vocab)`` float32, valid until the next call."""


@dataclass(frozen=True)
class Measured:
    """What one model costs on one text, against its source."""

    text: str
    tokens: int
    """Predicted tokens."""
    perplexity: float
    source_perplexity: float
    kl: float
    """Mean KL(source || result), in nats."""
    kl_p99: float
    kl_max: float
    top1: float
    """Fraction of positions where both choose the same token."""
    noise: float
    """99.9th percentile of the change of the true token's log-probability, in nats."""
    tokens_per_s: float
    """Prompt evaluation alone."""
    kl_error: float = 0.0
    """Standard error of the mean KL over the tokens."""

    def to_json(self) -> dict[str, Any]:
        """For ``report.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Windows:
    """A text as token windows; every position but a window's last predicts the next token."""

    name: str
    windows: tuple[tuple[int, ...], ...]

    @property
    def predicted(self) -> int:
        """Number of predicted tokens."""
        return sum(len(w) - 1 for w in self.windows)


def cut(
    name: str, ids: Sequence[int], tokens: int, window: int, begin: int | None = None
) -> Windows:
    """Cut a token stream into windows of ``window`` tokens, ``tokens`` in all.

    Args:
        name: of the text.
        ids: its tokens.
        tokens: how many of them to use.
        window: length of a window.
        begin: a token put before every window (models that expect a begin token everywhere).

    Raises:
        BadInput: fewer than two tokens.
    """
    ids = ids[:tokens]
    first = () if begin is None else (begin,)
    size = window - len(first)
    parts = tuple((*first, *ids[i : i + size]) for i in range(0, len(ids), size))
    parts = tuple(p for p in parts if len(p) >= 2)
    if not parts:
        raise BadInput(f"{name} is too short to measure on", why=f"it has {len(ids)} tokens")
    return Windows(name, parts)


class Reference:
    """The source's log-probabilities over the windows of one text, in a file.

    Args:
        windows: the text.
        folder: where the file lives; it survives an attempt and is reused when complete.
        n_vocab: entries of a row.
    """

    def __init__(self, windows: Windows, folder: Path, n_vocab: int) -> None:
        self.windows = windows
        self.n_vocab = n_vocab
        self.path = folder / f"reference-{windows.name.replace('/', '-')}.f16"
        self._partial = self.path.with_suffix(".partial")

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.windows.predicted * self.n_vocab * 2

    def ready(self) -> bool:
        """Whether the file is complete (it gets its name when it is)."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes

    def compute(self, source: Scorer, progress: Progress, check_stop: Callable[[], None]) -> None:
        """Fill the file from ``source``.

        Raises:
            OutOfSpace: the disk has no room for it.
        """
        import numpy as np

        free = os.statvfs(self.path.parent)
        if free.f_bavail * free.f_frsize < self.bytes + (64 << 20):
            raise OutOfSpace(
                f"no room for the source's predictions on {self.windows.name}",
                why=f"{self.bytes / 1e9:.1f} GB are needed under {self.path.parent}",
                hint="lower eval.tokens",
            )
        rows: Array = np.memmap(
            self._partial, np.float16, "w+", shape=(self.windows.predicted, self.n_vocab)
        )
        at = 0
        for window in self.windows.windows:
            check_stop()
            logits = source.logits(window)[: len(window) - 1, : self.n_vocab]
            for start in range(0, len(logits), _SLAB):
                slab = log_softmax(logits[start : start + _SLAB])
                rows[at : at + len(slab)] = slab
                at += len(slab)
            progress(at, self.windows.predicted)
        rows.flush()  # type: ignore[attr-defined]
        del rows
        os.replace(self._partial, self.path)

    def rows(self) -> Array:
        """``(predicted, n_vocab)`` float16 log-probabilities, memory-mapped."""
        import numpy as np

        return np.memmap(self.path, np.float16, "r", shape=(self.windows.predicted, self.n_vocab))

    def measure(
        self,
        result: Scorer,
        progress: Progress,
        check_stop: Callable[[], None],
        first: int | None = None,
    ) -> Measured:
        """Compare ``result`` against the source on this text (``first``: on that many windows)."""
        import numpy as np

        reference = self.rows()
        windows = self.windows.windows[:first]
        predicted = sum(len(w) - 1 for w in windows)
        sums = _Sums(predicted)
        seconds = 0.0
        for window in windows:
            check_stop()
            began = time.perf_counter()
            logits = result.logits(window)
            seconds += time.perf_counter() - began
            targets = np.array(window[1:])
            for start in range(0, len(targets), _SLAB):
                here = slice(start, min(start + _SLAB, len(targets)))
                at = sums.done
                size = here.stop - start
                sums.add(
                    reference[at : at + size].astype(np.float32),
                    log_softmax(logits[here, : self.n_vocab]),
                    targets[here],
                )
            progress(sums.done, predicted)
        total = sum(len(w) for w in windows)
        return sums.result(self.windows.name, total / max(seconds, 1e-9))


class _Sums:
    """Per-token figures of one comparison."""

    def __init__(self, count: int) -> None:
        import numpy as np

        self.done = 0
        self.kl = np.zeros(count)
        self.loss = np.zeros(count)
        self.source_loss = np.zeros(count)
        self.same: Array = np.zeros(count, bool)

    def add(self, source: Array, result: Array, targets: Array) -> None:
        """Log-probabilities ``(n, vocabulary)`` of both, and the true next tokens ``(n,)``."""
        import numpy as np

        n = len(targets)
        here = slice(self.done, self.done + n)
        rows = np.arange(n)
        self.loss[here] = -result[rows, targets]
        self.source_loss[here] = -source[rows, targets]
        self.same[here] = source.argmax(1) == result.argmax(1)
        # KL(P || Q) = sum p (log p - log q), p renormalised after the rounding to half precision
        p = np.exp(source)
        result -= source
        self.kl[here] = -np.einsum("ij,ij->i", p, result) / p.sum(1)
        self.done += n

    def result(self, text: str, tokens_per_s: float) -> Measured:
        """The figures over all tokens."""
        import numpy as np

        return Measured(
            text=text,
            tokens=self.done,
            perplexity=math.exp(min(float(self.loss.mean()), 700.0)),
            source_perplexity=math.exp(min(float(self.source_loss.mean()), 700.0)),
            kl=max(float(self.kl.mean()), 0.0),
            kl_p99=float(np.percentile(self.kl, 99)),
            kl_max=float(self.kl.max()),
            top1=float(self.same.mean()),
            noise=float(np.percentile(np.abs(self.loss - self.source_loss), 99.9)),
            tokens_per_s=tokens_per_s,
            kl_error=float(self.kl.std() / math.sqrt(max(self.done, 1))),
        )


def log_softmax(logits: Array) -> Array:
    """Row-wise log-softmax of ``(n, vocabulary)`` float32, a new array."""
    import numpy as np

    shifted: Array = logits - logits.max(1, keepdims=True)
    norm: Array = np.log(np.exp(shifted).sum(1, keepdims=True))
    shifted -= norm
    return shifted


def save_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either whole or absent."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
