"""The proof of an export: the same prompts through the source and the result, compared greedily.

A greedy answer that differs is not yet a fault: quantization moves log-probabilities a little, and
where the source itself was undecided the choice may flip. So the first differing token is judged
by the source's own gap between the two choices, against the noise measured for this result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from recipes.measuring.measure import Scorer
    from recipes.measuring.torch_model import TorchScorer

    Array = np.ndarray[Any, Any]

#: Mean KL (nats) of a file that only changed its format: rounding of activations stays far below, a
#: wrong permutation or norm far above.
LOSSLESS_KL = 0.01

#: Where the source is this undecided (nats), any rounding may flip its choice.
LOSSLESS_GAP = 0.1

#: Both of two competing log-probabilities may have moved by the measured noise.
NOISE_FACTOR = 2.0


class Answerer(Protocol):
    """The source: greedy answers and the logits behind them."""

    def generate(self, prompt: Sequence[int], count: int, stops: Sequence[int]) -> list[int]:
        """Up to ``count`` greedy tokens, ending after one of ``stops``."""

    def logits(self, tokens: Sequence[int]) -> Array:
        """``(len(tokens), vocabulary)``."""


@dataclass(frozen=True)
class SourceAnswer:
    """What the source says to one prompt."""

    text: str
    """The prompt, rendered."""
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: Array
    """``(len(tokens), vocabulary)`` float16: the source's view at every generated position."""


@dataclass(frozen=True)
class Case:
    """One prompt through both."""

    prompt: str
    same: int
    """Tokens equal from the start."""
    of: int
    """Tokens the source generated."""
    source_token: int | None
    result_token: int | None
    """The first differing tokens; None where nothing differs (or one answer ended)."""
    gap: float
    """Nats by which the source preferred its own token there; 0 where nothing differs."""
    accepted: bool

    def describe(self, allowed: float) -> str:
        """The first differing token, for the error."""
        return (
            f"{self.prompt[-60:]!r}: token {self.same + 1} is {self.result_token}, the source says "
            f"{self.source_token} and prefers it by {self.gap:.2f} nats (allowed: {allowed:.2f})"
        )


@dataclass(frozen=True)
class Proof:
    """The round trip of one result."""

    cases: tuple[Case, ...]
    allowed_gap: float
    template_same: bool
    tokenizer_same: bool
    stops_same: bool
    tokens_per_s: float
    """Generation, one token at a time."""
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the export may be published."""
        return not self.problems

    @property
    def exact(self) -> int:
        """Prompts answered with exactly the source's tokens."""
        return sum(c.same == c.of and c.gap == 0 for c in self.cases)

    def summary(self) -> str:
        """A cell for the report: ``3/4 exact``, or what failed."""
        if not self.passed:
            return "FAILED"
        return f"{self.exact}/{len(self.cases)} exact"

    def to_json(self) -> dict[str, Any]:
        """For ``proof.json``."""
        return {**asdict(self), "passed": self.passed, "exact": self.exact}

    def difference(self) -> str | None:
        """What it means that a proof passed though not every answer is exact; see there."""
        return difference(self.to_json())


def difference(proof: Mapping[str, Any]) -> str | None:
    """In words, what it means that a proof passed though not every answer is exact.

    Args:
        proof: as ``Proof.to_json`` gives it (and ``report.json`` keeps it).

    Returns:
        None where every answer is exact, or where the proof failed (the error says why).
    """
    differing = [c for c in proof["cases"] if c["same"] != c["of"] or c["gap"] != 0]
    if not differing or not all(c["accepted"] for c in differing):
        return None
    widest = max(c["gap"] for c in differing)
    count = len(proof["cases"])
    return (
        f"{len(differing)} of {count} answers differ from the source's, each where the source was "
        f"undecided: at the first differing token it preferred its own by {widest:.2f} nats at "
        f"most, and up to {proof['allowed_gap']:.2f} is within the noise of this result (after "
        "that token the two texts go on apart)"
    )


def answer(
    source: Answerer,
    prompts: Sequence[tuple[str, Sequence[int]]],
    count: int,
    stops: Sequence[int],
    check_stop: Callable[[], None] = lambda: None,
) -> list[SourceAnswer]:
    """The source's greedy answers, each with the distribution behind every token."""
    import numpy as np

    from recipes.measuring.measure import log_softmax

    answers = []
    for text, prompt in prompts:
        check_stop()
        tokens = source.generate(prompt, count, stops)
        logits = source.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
        answers.append(
            SourceAnswer(
                text,
                tuple(prompt),
                tuple(tokens),
                log_softmax(np.array(logits, np.float32)).astype(np.float16),
            )
        )
    return answers


def save_answers(path: Path, answers: list[SourceAnswer]) -> None:
    """Keep the source's answers for later attempts."""
    import os

    import numpy as np

    values: dict[str, Any] = {"count": np.array(len(answers))}
    for i, a in enumerate(answers):
        values[f"text{i}"] = np.array(a.text)
        values[f"prompt{i}"] = np.array(a.prompt, np.int64)
        values[f"tokens{i}"] = np.array(a.tokens, np.int64)
        values[f"log{i}"] = a.log_probs
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **values)
    os.replace(partial, path)


def load_answers(path: Path) -> list[SourceAnswer]:
    """What ``save_answers`` kept."""
    import numpy as np

    with np.load(path) as values:
        return [
            SourceAnswer(
                str(values[f"text{i}"]),
                tuple(values[f"prompt{i}"].tolist()),
                tuple(values[f"tokens{i}"].tolist()),
                values[f"log{i}"],
            )
            for i in range(int(values["count"]))
        ]


def judge(reference: SourceAnswer, tokens: Sequence[int], allowed: float) -> Case:
    """Compare one answer of the result with the source's."""
    want = reference.tokens
    same = 0
    while same < min(len(want), len(tokens)) and want[same] == tokens[same]:
        same += 1
    if same == len(want):
        return Case(reference.text, same, len(want), None, None, 0.0, True)
    have = tokens[same] if same < len(tokens) else None
    row = reference.log_probs[same]
    gap = float(row[want[same]]) - float(row[have]) if have is not None else float("inf")
    return Case(reference.text, same, len(want), want[same], have, gap, gap <= allowed)


def exact_case(text: str, want: Sequence[int], have: Sequence[int]) -> Case:
    """A case where nothing may differ: a copy."""
    pairs = zip(want, have, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(want), len(have)))
    if same == len(want) == len(have):
        return Case(text, same, len(want), None, None, 0.0, True)
    first = want[same] if same < len(want) else None
    second = have[same] if same < len(have) else None
    return Case(text, same, len(want), first, second, float("inf"), False)


def spread(scorer: Scorer, answers: Sequence[SourceAnswer]) -> tuple[float, float]:
    """Mean KL and noise over the source's own answers, where no measured text is at hand.

    Returns:
        mean KL(source || result), and the largest change of a chosen token's log-probability.
    """
    import numpy as np

    from recipes.measuring.measure import log_softmax

    divergences, changes = [], []
    for a in answers:
        logits = scorer.logits([*a.prompt, *a.tokens])[len(a.prompt) - 1 : -1]
        source: Array = a.log_probs.astype(np.float32)
        result = log_softmax(np.array(logits[:, : source.shape[1]], np.float32))
        p = np.exp(source)
        divergences.append((p * (source - result)).sum(1) / p.sum(1))
        rows = np.arange(len(a.tokens))
        changes.append(np.abs(result[rows, list(a.tokens)] - source[rows, list(a.tokens)]))
    if not divergences:
        return 0.0, 0.0
    return (
        max(float(np.concatenate(divergences).mean()), 0.0),
        float(np.concatenate(changes).max()),
    )


def prove_torch(
    result: TorchScorer, answers: Sequence[SourceAnswer], stops: Sequence[int]
) -> Proof:
    """Round trip through transformers of a result that must not differ but by rounding."""
    kl, noise = spread(result, answers)
    allowed = max(LOSSLESS_GAP, NOISE_FACTOR * noise)
    problems = []
    if kl > LOSSLESS_KL:
        problems.append(f"the mean KL divergence over the answers is {kl:.4f}")
    cases = tuple(
        judge(a, result.generate(a.prompt, len(a.tokens), stops), allowed) for a in answers
    )
    problems += [c.describe(allowed) for c in cases if not c.accepted]
    return Proof(cases, allowed, True, True, True, 0.0, tuple(problems))


def prove_gguf(
    path: Path,
    answers: Sequence[SourceAnswer],
    tokenizer: Any,
    *,
    stops: Sequence[int],
    noise: float | None,
    threads: int,
    gpu_layers: int = 0,
    lossless: bool = False,
    adapters: Sequence[Path] = (),
    check_stop: Callable[[], None] = lambda: None,
) -> Proof:
    """Round trip through llama.cpp.

    Args:
        path: the GGUF.
        answers: what the source said.
        tokenizer: the source's.
        stops: token ids that must end a generation.
        noise: change of log-probabilities measured for this result (nats, 99.9th percentile);
            None: it is measured on the answers themselves.
        threads: CPU threads.
        gpu_layers: layers on the GPU.
        lossless: nothing was quantized: the mean KL over the answers must be almost zero, too.
        adapters: LoRA files in GGUF form, applied over ``path``.
        check_stop: raises when the step is to stop.
    """
    from recipes.gguf.runtime import GgufModel

    longest = max((len(a.prompt) + len(a.tokens) for a in answers), default=1)
    problems: list[str] = []
    cases = []
    tokens = 0
    seconds = 0.0
    with GgufModel(
        path, context=longest + 8, threads=threads, gpu_layers=gpu_layers, adapters=adapters
    ) as model:
        if noise is None:
            kl, noise = spread(model, answers)
            if lossless and kl > LOSSLESS_KL:
                problems.append(f"the mean KL divergence over the answers is {kl:.4f}")
        allowed = max(LOSSLESS_GAP, NOISE_FACTOR * noise)
        stops_same = all(model.ends(stop) for stop in stops)
        if not stops_same:
            missing = [s for s in stops if not model.ends(s)]
            problems.append(f"generation would not stop at the tokens {missing}")
        embedded = model.meta("tokenizer.chat_template")
        own = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        template_same = own is None or embedded == own
        if not template_same:
            problems.append("the chat template in the file is not the source's")
        tokenizer_same = True
        for reference in answers:
            check_stop()
            have = tuple(model.tokenize(reference.text))
            if have != reference.prompt and (model.tokenize(reference.text, special=True)) != list(
                reference.prompt
            ):
                tokenizer_same = False
                problems.append(f"the prompt {reference.text[:60]!r} is tokenized differently")
            began = time.perf_counter()
            given = model.generate(reference.prompt, len(reference.tokens))
            seconds += time.perf_counter() - began - model.prompt_seconds
            tokens += len(given) - 1
            cases.append(judge(reference, given, allowed))
    problems += [c.describe(allowed) for c in cases if not c.accepted]
    return Proof(
        tuple(cases),
        allowed,
        template_same,
        tokenizer_same,
        stops_same,
        tokens / seconds if tokens and seconds > 0 else 0.0,
        tuple(problems),
    )


def require(proof: Proof, name: str) -> None:
    """Fail the export when its proof failed.

    Raises:
        BadInput: with the first differing token.
    """
    if not proof.passed:
        raise BadInput(
            f"{name} does not behave like its source",
            why="; ".join(proof.problems[:3]),
            hint="nothing was published; keep the source and report this model's architecture",
        )
