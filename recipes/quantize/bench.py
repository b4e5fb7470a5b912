"""What the levels are measured against, made once from the source in one load of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from recipes.measuring.measure import Reference, Windows, cut
from recipes.measuring.proof import (
    LOSSLESS_KL,
    SourceAnswer,
    answer,
    load_answers,
    prove_gguf,
    require,
    save_answers,
)
from recipes.quantize.ladder import Bench
from recipes.quantize.texts import prompts, read, stream

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.quantize.run import Source
    from recipes.quantize.schema import QuantizeSpec


def prepare_bench(
    ctx: StepContext, spec: QuantizeSpec, source: Source, unquantized: Path | None
) -> tuple[Bench, Any, list[str]]:
    """Reference predictions, answers and importance; proves the conversion where there is one.

    Returns:
        the bench, the importance matrix (None: not wanted), and notes for the report.

    Raises:
        BadInput: the converted file does not behave like the source.
    """
    from recipes.gguf.checkpoint import open_checkpoint
    from recipes.quantize.importance import calibration_stream, load_importance

    texts, heads, notes = _texts(spec, source, ctx)
    stops = stops_of(source)
    vocabulary = len_vocabulary(source.folder)
    references = tuple(Reference(t, ctx.work_dir, vocabulary) for t in texts)
    answers_file = ctx.work_dir / "answers.npz"
    importance_file = ctx.work_dir / "importance.npz"
    wanted = spec.wants_importance
    missing = not all(r.ready() for r in references) or not answers_file.is_file()
    if wanted and not importance_file.is_file():
        missing = True
    calibration = calibration_stream(ctx, spec, source) if wanted else None
    if calibration is not None:
        notes.append(f"importance matrix from {calibration.describe()}")
    if missing:
        _compute(ctx, spec, source, references, heads, stops, answers_file, calibration)
    answers = load_answers(answers_file)
    importance = load_importance(importance_file) if wanted else None
    if unquantized is not None:
        notes.append(_prove_conversion(ctx, source, unquantized, references[0], answers, stops))
    parameters = open_checkpoint(source.folder).parameters
    return Bench(references, tuple(answers), stops, source.tokenizer, parameters), importance, notes


def _prove_conversion(
    ctx: StepContext,
    source: Source,
    unquantized: Path,
    reference: Reference,
    answers: list[SourceAnswer],
    stops: tuple[int, ...],
) -> str:
    """The unquantized file must predict as the source does, before anything is made from it."""
    from recipes.gguf.runtime import GgufModel

    layers = -1 if ctx.device == "cuda" else 0
    context = max(len(w) for w in reference.windows.windows)
    ctx.phase("proving the conversion")
    with GgufModel(unquantized, context=context, threads=ctx.threads, gpu_layers=layers) as model:
        found = reference.measure(model, lambda _done, _total: None, lambda: None, first=1)
    if found.kl > LOSSLESS_KL:
        raise BadInput(
            "the converted file does not predict as its source",
            why=f"the mean KL divergence is {found.kl:.4f} without any quantization "
            f"(allowed: {LOSSLESS_KL})",
            hint="the architecture differs from what its class name says; nothing was published",
        )
    proof = prove_gguf(
        unquantized,
        answers,
        source.tokenizer,
        stops=stops,
        noise=found.noise,
        threads=ctx.threads,
        gpu_layers=layers,
    )
    require(proof, "the converted file")
    why = proof.difference()
    return (
        f"conversion proven: KL {found.kl:.5f}, {proof.summary()} prompts, tokenizer and template "
        "as the source's" + (f"; {why}" if why else "")
    )


def _texts(
    spec: QuantizeSpec, source: Source, ctx: StepContext
) -> tuple[list[Windows], list[tuple[str, tuple[int, ...]]], list[str]]:
    notes = []
    tokenizer = source.tokenizer
    begin = begin_token(tokenizer)
    name, examples = read(spec.eval.data, ctx.paths)
    wanted = [(name, examples, spec.eval.tokens)]
    if spec.eval.neutral is not None:
        other, rows = read(spec.eval.neutral, ctx.paths)
        wanted.append(
            (other if other != name else f"{other} (neutral)", rows, spec.eval.neutral_tokens)
        )
    texts = []
    for title, rows, tokens in wanted:
        found = stream(title, rows, tokenizer, tokens)
        if found.short:
            notes.append(f"{title} ends after {len(found.ids)} tokens, {tokens} were asked for")
        texts.append(cut(title, found.ids, tokens, spec.eval.window, begin))
    room = max(spec.eval.window, 64)
    heads = [(p.text, p.ids) for p in prompts(examples, tokenizer, spec.eval.prompts, room)]
    return texts, heads, notes


def begin_token(tokenizer: Any) -> int | None:
    """The token put before every text, where the tokenizer does that."""
    ids = tokenizer("a")["input_ids"]
    return int(ids[0]) if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else None


def len_vocabulary(folder: Path) -> int:
    """Rows of the output matrix."""
    from recipes.gguf.checkpoint import open_checkpoint
    from recipes.gguf.families import read_config

    return int(read_config(open_checkpoint(folder).config).need("vocab_size"))


def stops_of(source: Source) -> tuple[int, ...]:
    """Every token id that ends the source's generation."""
    from recipes.gguf.vocabulary import stop_ids

    found = set(stop_ids(source.folder))
    if source.tokenizer.eos_token_id is not None:
        found.add(int(source.tokenizer.eos_token_id))
    return tuple(sorted(found))


def _compute(
    ctx: StepContext,
    spec: QuantizeSpec,
    source: Source,
    references: tuple[Reference, ...],
    heads: list[tuple[str, tuple[int, ...]]],
    stops: tuple[int, ...],
    answers_file: Path,
    calibration: Any,
) -> None:
    from recipes.quantize.importance import collect
    from recipes.quantize.torch_source import load_source

    def check_stop() -> None:
        if ctx.should_stop:
            ctx.raise_stopped()

    ctx.phase("loading the source")
    model = load_source(source.folder, threads=ctx.threads, device=ctx.device)
    try:
        if not answers_file.is_file():
            ctx.phase("asking the source")
            save_answers(
                answers_file, answer(model, heads, spec.eval.prompt_tokens, stops, check_stop)
            )
        for reference in references:
            if not reference.ready():
                ctx.phase(f"predicting {reference.windows.name} with the source")
                reference.compute(
                    model, lambda done, total: ctx.progress(done, total, "tokens"), check_stop
                )
        if calibration is not None:
            ctx.phase("computing the importance matrix")
            collect(ctx, spec, model, calibration, check_stop)
    finally:
        model.close()
