"""Scores of generated answers against the rows' own: exact match, ROUGE-L, JSON Schema, a judge."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.data.formats import Example, Message
from engine.errors import BadInput, MissingPart, StepFailed
from engine.plugins import extensions
from recipes.evaluate.generation import answers, shown_prompt
from recipes.evaluate.schema import METRICS

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.evaluate.schema import EvaluateSpec
    from recipes.loading import Precision

_WORD = re.compile(r"\w+")

Judge = Callable[[str, str, str], float]
"""``judge(prompt, answer, reference) -> score`` between 0 and 1."""


def references(examples: Sequence[Example]) -> list[tuple[tuple[Message, ...], str]]:
    """``(conversation, wanted answer)`` of every row that ends with an assistant's turn."""
    found: list[tuple[tuple[Message, ...], str]] = []
    for example in examples:
        if example.shape == "chat" and len(example.messages) > 1:
            last = example.messages[-1]
            if last["role"] == "assistant":
                found.append((example.messages[:-1], str(last["content"])))
        elif example.shape == "completion":
            prompt = ({"role": "user", "content": str(example.prompt)},)
            found.append((prompt, str(example.completion)))
    return found


def exact_match(answer: str, reference: str) -> float:
    """1.0 when both are the same but for case, punctuation at the ends and white space."""
    return float(_plain(answer) == _plain(reference))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004): longest common subsequence of words, without stemming."""
    first, second = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    if not first or not second:
        return float(first == second)
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    common = row[-1]
    if not common:
        return 0.0
    precision, recall = common / len(first), common / len(second)
    return 2 * precision * recall / (precision + recall)


def json_check(schema: Path | None) -> Callable[[str], float]:
    """1.0 for an answer that is JSON (and satisfies the schema where one is given).

    Raises:
        BadInput: the schema can't be read or is none.
        MissingPart: a schema is given and jsonschema is not installed.
    """
    validator: Any = None
    if schema is not None:
        try:
            import jsonschema  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingPart(
                "the metric json_schema needs the package jsonschema",
                hint="pip install 'modelops-tui[metrics]'",
            ) from error
        try:
            value = json.loads(schema.read_text(encoding="utf-8"))
            kind = jsonschema.validators.validator_for(value)
            kind.check_schema(value)
        except (OSError, ValueError, jsonschema.SchemaError) as error:
            raise BadInput(f"{schema} is no JSON Schema", why=str(error).splitlines()[0]) from error
        validator = kind(value)

    def check(answer: str) -> float:
        text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
        try:
            value = json.loads(text)
        except ValueError:
            return 0.0
        return float(validator is None or validator.is_valid(value))

    return check


def load_judge(name: str) -> Judge:
    """The judge plugin called ``name``.

    Raises:
        NotFound: no such plugin, or one that can't be loaded; the reason is named.
    """
    judge: Judge = extensions("judge").get(name)
    return judge


def score_answers(
    ctx: StepContext,
    spec: EvaluateSpec,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    precision: Precision,
) -> dict[str, float]:
    """Answer up to ``metric_rows`` rows and average each asked-for metric (0 to 1).

    Raises:
        BadInput: no row has a reference answer.
    """
    pairs = references(examples)[: spec.metric_rows]
    if not pairs:
        raise BadInput(
            "the metrics have nothing to compare with", why="no row ends with an assistant's turn"
        )
    texts = answers(
        model,
        tokenizer,
        [prompt for prompt, _ in pairs],
        max_new_tokens=spec.max_new_tokens,
        precision=precision,
        progress=lambda done: ctx.progress(done, len(pairs), "answers"),
    )
    schema = json_check(Path(spec.json_schema) if spec.json_schema else None)
    judge = load_judge(spec.judge) if spec.judge else None
    metrics: dict[str, Callable[[str, str, str], float]] = {
        "exact_match": lambda _, answer, wanted: exact_match(answer, wanted),
        "rouge_l": lambda _, answer, wanted: rouge_l(answer, wanted),
        "json_schema": lambda _, answer, __: schema(answer),
    }
    if judge is not None:
        metrics["judge"] = judge
    found: dict[str, float] = {}
    for name in spec.metrics:
        if name not in METRICS:
            found[name] = plugin_score(name, texts, [wanted for _, wanted in pairs])
            continue
        values = [
            metrics[name](shown_prompt(prompt), text, wanted)
            for (prompt, wanted), text in zip(pairs, texts, strict=True)
        ]
        found["json_valid" if name == "json_schema" else name] = sum(values) / len(values)
    return found


def plugin_score(name: str, texts: Sequence[str], wanted: Sequence[str]) -> float:
    """The figure a metric plugin gives for all answers together.

    Raises:
        NotFound: the plugin can't be loaded.
        StepFailed: it raised, or returned no finite number.
    """
    metric = extensions("metric").get(name)
    try:
        value = float(metric(list(texts), list(wanted)))
    except Exception as error:
        raise StepFailed(
            f"the metric {name!r} failed", why=f"{type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(value):
        raise StepFailed(f"the metric {name!r} returned {value}", why="a finite number was due")
    return value
