"""The ``evaluate`` step: what a model knows, what it forgot and what it says, beside its base."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from engine.data.formats import Example, Message, read_examples
from engine.data.masks import Encoder
from engine.data.rows import read_rows
from engine.data.source import DataLocation, resolve_data
from engine.errors import BadInput
from engine.models import ModelLocation, resolve_model
from engine.worker.context import StepResult
from recipes.evaluate.generation import answers, shown_prompt
from recipes.evaluate.perplexity import Score, score_rows
from recipes.evaluate.schema import EvaluateSpec
from recipes.evaluate.scores import score_answers
from recipes.finetune.rows import TokenRow, blocks, compact, prompts_of
from recipes.finetune.session import prepare_tokenizer
from recipes.loading import Precision, choose_precision, load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    from engine.worker.context import StepContext

#: Windows of the neutral text, in tokens.
_WINDOW = 512


@dataclass
class Measured:
    """Everything measured of one model."""

    name: str
    held_out: Score
    neutral: Score | None = None
    prompts: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What both models are measured on, in the tokens of one tokenizer."""

    rows: list[TokenRow]
    cut: int
    neutral: list[TokenRow]
    prompts: list[tuple[Message, ...]]
    examples: list[Example]
    data: DataLocation


def run(ctx: StepContext) -> StepResult:
    """Measure ``model`` and what it is compared with; publish the report.

    Raises:
        BadInput: the data can't be read, or nothing in it can be measured.
        NotFound: a model is not there.
    """
    spec = ctx.params
    if not isinstance(spec, EvaluateSpec):
        raise TypeError(f"evaluate was given a {type(spec).__name__}")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch  # 1.5 s

    if ctx.threads:
        torch.set_num_threads(ctx.threads)
    torch.manual_seed(ctx.seed)
    precision = choose_precision(spec.precision, ctx.device)
    tuned = resolve_model(spec.model, ctx.paths)
    other = resolve_model(spec.base, ctx.paths) if spec.base else tuned.base
    if other is not None and other.kind == "adapter" and spec.base is None:
        other = other.root
    measured = [measure(ctx, spec, tuned, precision, "tuned" if other else "model")]
    if other is not None:
        measured.append(measure(ctx, spec, other, precision, "base"))
    return report(ctx, spec, tuned, measured)


def measure(
    ctx: StepContext, spec: EvaluateSpec, location: ModelLocation, precision: Precision, role: str
) -> Measured:
    """Load one model, measure it and let it go again: two models never share the memory."""
    ctx.phase(f"measuring {role}: {location.name}")
    tokenizer = load_tokenizer(location, paths=ctx.paths)
    prepare_tokenizer(tokenizer, None, location.name)
    material = read_material(ctx, spec, tokenizer)
    if material.cut:
        ctx.note(f"{material.cut} rows are cut to {spec.max_length} tokens", level="warning")
    model = load_causal_lm(location, precision.compute_dtype, ctx.device, paths=ctx.paths)
    pad_id = tokenizer.pad_token_id
    total = len(material.rows) + len(material.neutral)

    def tell(base: int) -> Any:
        return lambda done: ctx.progress(base + done, total, "rows")

    found = Measured(
        location.name,
        score_rows(
            model,
            material.rows,
            pad_id=pad_id,
            batch=spec.batch,
            precision=precision,
            progress=tell(0),
        ),
    )
    if not found.held_out.tokens:
        raise BadInput(
            f"{material.data.name} has nothing to measure",
            why="no row has an assistant's turn within max_length",
        )
    if material.neutral:
        found.neutral = score_rows(
            model,
            material.neutral,
            pad_id=pad_id,
            batch=2,
            precision=precision,
            progress=tell(len(material.rows)),
        )
    if material.prompts:
        ctx.phase(f"answering prompts: {role}")
        found.prompts = [shown_prompt(prompt) for prompt in material.prompts]
        found.samples = answers(
            model,
            tokenizer,
            material.prompts,
            max_new_tokens=spec.max_new_tokens,
            precision=precision,
        )
    if spec.metrics:
        ctx.phase(f"scoring answers: {role}")
        found.scores = score_answers(ctx, spec, model, tokenizer, material.examples, precision)
    return found


def read_material(ctx: StepContext, spec: EvaluateSpec, tokenizer: Any) -> Material:
    """The held-out rows, the neutral text and the prompts, encoded for one tokenizer."""
    location = resolve_data(spec.data, ctx.paths)
    rows = read_rows(location.path, location.version)
    examples = list(read_examples(rows, spec.format, spec.columns, location.name))
    if spec.rows is not None:
        examples = examples[: spec.rows]
    encoder = Encoder(tokenizer)
    encoded = [encoder.encode(example, spec.max_length) for example in examples]
    neutral: list[TokenRow] = []
    if spec.neutral is not None:
        source = resolve_data(spec.neutral, ctx.paths)
        texts = read_examples(read_rows(source.path, source.version), "text", {}, source.name)
        neutral = blocks(compact(Encoder(tokenizer, "all").encode(t) for t in texts), _WINDOW)
    return Material(
        compact(encoded),
        sum(row.truncated for row in encoded),
        neutral,
        list(prompts_of(examples, spec.samples)),
        examples,
        location,
    )


def report(
    ctx: StepContext, spec: EvaluateSpec, tuned: ModelLocation, measured: Sequence[Measured]
) -> StepResult:
    """Tables, samples, the report artifact and the outputs."""
    first = measured[0]
    other = measured[1] if len(measured) > 1 else None
    for event in samples_of(first, other):
        ctx.event("sample", **event)
    table = comparison_table(first, other)
    ctx.event("table", **table)
    outputs: dict[str, Any] = {
        "perplexity": first.held_out.perplexity,
        "loss": first.held_out.loss,
        **first.scores,
    }
    if first.neutral is not None:
        outputs["neutral_perplexity"] = first.neutral.perplexity
    if other is not None:
        outputs["base_perplexity"] = other.held_out.perplexity
        if other.neutral is not None:
            outputs["neutral_base_perplexity"] = other.neutral.perplexity
    finite = {key: value for key, value in outputs.items() if math.isfinite(value)}
    body = {
        "model": tuned.name,
        "manifest": tuned.manifest,
        "data": spec.data,
        "table": table,
        "numbers": finite,
        "samples": samples_of(first, other),
    }
    view = publish_report(ctx, tuned, body, finite)
    return StepResult({**finite, "report": view.id}, (table,))


def publish_report(
    ctx: StepContext, tuned: ModelLocation, body: dict[str, Any], numbers: dict[str, float]
) -> Any:
    """Publish ``body`` as ``report.json`` of a report artifact; its view.

    Args:
        ctx: the step.
        tuned: the model that was measured, parent of the report.
        body: the report; ``body["table"]`` becomes the card.
        numbers: the artifact's metrics, all finite.
    """
    folder = ctx.work_dir / "report"
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
    view = ctx.registry().publish(
        name=f"{ctx.job_name}.{ctx.step}",
        artifact_type="report",
        files=folder,
        parents=[("model", tuned.manifest)] if tuned.manifest else [],
        metrics=numbers,
        card=markdown(body["table"]),
        license=None,
        run={"job": ctx.job_id, "step": ctx.step, "recipe_sha256": ctx.recipe_sha256},
        key=f"{ctx.job_id}/{ctx.step}/report",
    )
    ctx.event("artifact", manifest=view.id, artifact_type=view.artifact_type, name=view.name)
    return view


def samples_of(first: Measured, other: Measured | None) -> list[dict[str, str]]:
    """Prompts with both models' answers."""
    before = other.samples if other is not None else [""] * len(first.samples)
    return [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(first.prompts, before, first.samples, strict=True)
    ]


def comparison_table(first: Measured, other: Measured | None) -> dict[str, Any]:
    """Both models side by side; lower perplexity is better."""
    lines: list[tuple[str, float, float | None]] = [
        (
            "perplexity, held-out",
            first.held_out.perplexity,
            other.held_out.perplexity if other else None,
        )
    ]
    if first.neutral is not None:
        neutral = other.neutral.perplexity if other and other.neutral else None
        lines.append(("perplexity, neutral text", first.neutral.perplexity, neutral))
    lines += [
        (name, value, other.scores.get(name) if other else None)
        for name, value in first.scores.items()
    ]
    names = [first.name] if other is None else [first.name, other.name]
    return side_by_side("Evaluation", names, lines, notes_of(first, other))


def side_by_side(
    title: str,
    names: Sequence[str],
    lines: Sequence[tuple[str, float, float | None]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """A ``table`` event of one model, or of two with the change from the second to the first.

    Args:
        title: the table's.
        names: one model, or two.
        lines: ``(measure, value, the other model's value)``.
        notes: stand below it.
    """
    columns = ["measure", *names, *(["change"] if len(names) > 1 else [])]
    rows = []
    for name, value, base in lines:
        row: list[Any] = [name, _round(value)]
        if len(names) > 1:
            row += [_round(base), _change(value, base)]
        rows.append(row)
    return {"title": title, "columns": columns, "rows": rows, "notes": list(notes)}


def notes_of(first: Measured, other: Measured | None) -> list[str]:
    """What the numbers say in words, and how many tokens they rest on."""
    notes = [f"{first.held_out.tokens} held-out tokens predicted"]
    if other is None or first.neutral is None or other.neutral is None:
        return notes
    rise = first.neutral.perplexity / other.neutral.perplexity - 1
    if rise > 0.25:
        notes.append(
            f"neutral perplexity rose by {100 * rise:.0f} %: the model forgets; "
            "train fewer steps or with a lower learning rate"
        )
    else:
        notes.append(f"neutral perplexity changed by {100 * rise:+.1f} %: little is forgotten")
    return notes


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown, for the report's card."""
    head = "| " + " | ".join(table["columns"]) + " |"
    line = "|" + "---|" * len(table["columns"])
    rows = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]
    notes = [f"- {note}" for note in table["notes"]]
    return "\n".join([f"# {table['title']}", "", head, line, *rows, "", *notes]) + "\n"


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _change(value: float, base: float | None) -> str | None:
    if base is None or not base or not math.isfinite(value) or not math.isfinite(base):
        return None
    return f"{100 * (value / base - 1):+.1f} %"
