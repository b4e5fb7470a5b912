"""Supervised fine-tuning on the bare Trainer: LoRA, QLoRA, DoRA, full, pre-training."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.worker.checkpoints import latest_complete, prune
from engine.worker.context import StepResult
from recipes.evaluate.generation import answers, shown_prompt
from recipes.evaluate.perplexity import score_rows
from recipes.finetune.arguments import make_arguments, total_steps, training_arguments
from recipes.finetune.attention import has_window
from recipes.finetune.batch_size import sizes
from recipes.finetune.batches import (
    FlatBatch,
    PackedBatch,
    PaddedBatch,
    RowDataset,
    common_beginning,
)
from recipes.finetune.building import build_model, trainable_parameters
from recipes.finetune.calibration import (
    Finished,
    finished_runs,
    memory_correction,
    remember,
)
from recipes.finetune.fit import likeness, parts, read_shape, usable_cores
from recipes.finetune.group import group_of
from recipes.finetune.loss import can_select, inner_model
from recipes.finetune.memory import peak_memory_bytes, settle_memory
from recipes.finetune.outcome import Outcome, publish_outcome
from recipes.finetune.rows import Prepared, data_files, pack, prepare
from recipes.finetune.session import Session, config_hash, open_session
from recipes.finetune.sharding import (
    add_up,
    allow_sharding,
    check_in_effect,
    measure_together,
    whole_again,
)
from recipes.finetune.together import spread
from recipes.finetune.trainer import supervised_trainer
from recipes.finetune.watching import Watch

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

_SAMPLE_TOKENS = 64
#: Runs of fewer steps tell little about speed and peak.
_TELLING_STEPS = 5
#: Held-out rows measured at once.
_MEASURED_ROWS = 8


def train(ctx: StepContext, spec: FinetuneSpec) -> StepResult:
    """Run one supervised fine-tuning from data to published artifact."""
    session = open_session(ctx, spec)
    ctx.phase("reading the data")
    max_length, batch = sizes(session)
    prepared = prepare(spec, session.encoder, ctx.paths, max_length)
    tell_report(ctx, prepared)

    ctx.phase("loading the model")
    model = build_model(
        spec,
        session.location,
        session.precision,
        ctx.device,
        ctx.paths,
        place="cpu" if session.group.shards else None,
    )
    dataset = make_dataset(prepared, spec, model, max_length)
    steps = total_steps(spec, len(dataset), batch, session.group.size)
    run_hash = config_hash(session, data_files(prepared), batch=batch, max_length=max_length)
    trainable, total = trainable_parameters(model)
    ctx.note(
        f"{spec.train.method}: {trainable:,} of {total:,} parameters are trained in "
        f"{session.precision.name}, {len(prepared.train)} rows, {steps} steps"
    )
    before = samples_before(session, model, prepared)

    watch = make_watch(session, model, prepared, run_hash, steps)
    outcome = fit(session, model, prepared, dataset, watch, batch, steps)
    if outcome.stopped:
        ctx.raise_stopped()
    if watch.measure is not None and not watch.eval_losses:
        watch.evaluate(steps)
    model = outcome.model
    if not session.group.leads:
        return StepResult({})
    estimated = estimated_memory(session, prepared, batch, max_length)
    remember_run(session, outcome, estimated, watch, steps)
    best = load_best(session, model)
    tell_samples(session, model, prepared, before)
    result = publish_outcome(
        session,
        Outcome(
            model=model,
            steps=steps,
            loss=mean_last(watch.losses),
            eval_loss=final_eval_loss(watch, best),
            tokens_per_s=outcome.tokens_per_s,
            tokens_seen=watch.tokens_seen,
            trainable=trainable,
            parameters=total,
            peak_memory_bytes=max(outcome.peak, peak_memory_bytes(ctx.device)),
            estimated_memory_bytes=estimated.memory_bytes,
            peak_in_training=outcome.peak > 0,
            report=prepared.report,
            sources=prepared.sources,
            samples=outcome_samples(session),
            losses=watch.losses,
            eval_losses=watch.eval_losses,
        ),
    )
    # of one process the engine measures it itself
    return replace(result, peak_memory_bytes=outcome.peak) if session.group.size > 1 else result


@dataclass(frozen=True)
class Foreseen:
    """The fit estimate of this very run: what the parts say, and that corrected by past runs."""

    like: Finished
    memory_bytes: int


def estimated_memory(session: Session, prepared: Prepared, batch: int, max_length: int) -> Foreseen:
    """The fit estimate for the longest row there is, to stand beside the measured peak."""
    spec = session.spec
    longest = max(len(row) for row in prepared.train)
    length = max(max_length, longest) if spec.train.packing else longest
    bf16 = session.precision.autocast is not None
    found = parts(
        spec,
        read_shape(session.location),
        batch=batch,
        length=length,
        device=session.device,
        bf16=bf16,
    )
    found = spread(spec, found, session.device)
    whole = sum(found.values())
    like = likeness(spec, session.location, session.device, bf16, batch * length, whole)
    factor, _ = memory_correction(finished_runs(session.ctx.paths), like)
    return Foreseen(like, int(whole * factor))


def remember_run(
    session: Session, fitted: Fitted, foreseen: Foreseen, watch: Watch, steps: int
) -> None:
    """Keep what this run measured, for the next estimate (not of runs of a step or two)."""
    if steps - watch.first_step < _TELLING_STEPS or session.group.size > 1:
        # several processes share cores and caches: that says nothing of a run of one
        return
    try:
        remember(
            session.ctx.paths,
            replace(
                foreseen.like,
                peak=fitted.peak,
                tokens_per_s=round(fitted.tokens_per_s, 2),
                threads=session.ctx.threads or usable_cores(),
                steps=steps,
            ),
        )
    except OSError as error:
        session.ctx.note(f"what was measured could not be kept: {error}", level="warning")


def tell_report(ctx: StepContext, prepared: Prepared) -> None:
    """The data report as an event, its warnings as notes, and a copy in the work folder."""
    ctx.event("table", **prepared.report.table())
    for text in prepared.report.warnings():
        ctx.note(text, level="warning")
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    if not group_of(ctx).leads:
        return
    path = ctx.work_dir / "data_report.json"
    path.write_text(json.dumps(prepared.report.to_json(), indent=2, ensure_ascii=False))


def make_dataset(prepared: Prepared, spec: FinetuneSpec, model: Any, max_length: int) -> RowDataset:
    """Rows as they are, or packed into sequences of ``max_length``."""
    rows = prepared.train
    if not spec.train.packing:
        return RowDataset(rows)
    collate = choose_batch(spec, model, 0)
    shared = common_beginning(rows) if isinstance(collate, FlatBatch) and collate.shares else 0
    return RowDataset(rows, pack(rows, max(max_length, *map(len, rows)), shared))


def make_watch(
    session: Session, model: Any, prepared: Prepared, run_hash: str, steps: int
) -> Watch:
    """The watch over this run, with its held-out measurement."""
    spec = session.spec

    group = session.group

    def measure() -> float:
        # every process measures its share; sums add up to the same loss
        score = score_rows(
            model,
            prepared.held_out[group.rank :: group.size],
            pad_id=session.tokenizer.pad_token_id,
            batch=_MEASURED_ROWS,
            precision=session.precision,
        )
        return add_up(group, score).loss

    def keep_best() -> None:
        if group.leads:
            model.save_pretrained(best_folder(session))

    return Watch(
        session.ctx,
        spec,
        run_hash,
        steps,
        measure=measure if prepared.held_out and not group.shards else None,
        keep_best=keep_best if spec.train.keep == "best" else None,
    )


@dataclass(frozen=True)
class Fitted:
    """How training ended: stopped on request or done, and how fast it was."""

    stopped: bool
    tokens_per_s: float
    peak: int
    """Peak memory in bytes if training made it; 0 where loading had needed more."""
    model: Any
    """The trained model, whole; None in processes that do not lead where it was spread."""


def fit(
    session: Session,
    model: Any,
    prepared: Prepared,
    dataset: RowDataset,
    watch: Watch,
    batch: int,
    steps: int,
) -> Fitted:
    """Train, from the newest complete checkpoint of the same configuration where there is one."""
    import torch
    from transformers import TrainingArguments

    ctx, spec, group = session.ctx, session.spec, session.group
    values = training_arguments(ctx, spec, steps, batch, fp16=session.precision.name == "fp16")
    args = make_arguments(TrainingArguments, values)
    allow_sharding(group, session.device)
    pad_id = session.tokenizer.pad_token_id
    collate = choose_batch(spec, model, pad_id)
    trainer = supervised_trainer(model, args, dataset, collate, watch, session.precision)
    check_in_effect(trainer, group)
    if group.shards and not can_select(model):
        raise BadInput(
            f"a {inner_model(model).config.model_type!r} model can't be spread over processes",
            why="its output is not a plain projection of its hidden states",
            hint='use train.distributed.strategy = "ddp"',
        )
    if group.shards and prepared.held_out:
        watch.measure = lambda: (
            measure_together(
                trainer,
                prepared.held_out,
                group,
                pad_id=pad_id,
                batch=_MEASURED_ROWS,
                precision=session.precision,
            ).loss
        )
    resume = resume_from(ctx, watch)
    settle_memory(ctx.device)
    before = peak_memory_bytes(ctx.device)
    ctx.phase("training")
    if group.size > 1:
        # same data order everywhere, other dropout in every process
        torch.manual_seed(spec.seed + group.rank)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if group.size > 1:
        if watch.measure is not None and not watch.stopping and not watch.eval_losses:
            watch.evaluate(steps)
        whole = model if not group.shards or watch.stopping else whole_again(session, trainer)
        return Fitted(watch.stopping, watch.tokens_per_s, watch.peak, whole)
    peak = peak_memory_bytes(ctx.device)
    return Fitted(watch.stopping, watch.tokens_per_s, peak if peak > before else 0, model)


def choose_batch(spec: FinetuneSpec, model: Any, pad_id: int) -> Any:
    """How rows become batches: padded, or flat where the model can keep flat rows apart.

    Raises:
        BadInput: ``padding_free`` with a model whose rows can't be told apart in one sequence.
    """
    if not (spec.train.packing or spec.train.padding_free):
        return PaddedBatch(pad_id)
    if can_select(model) and not has_window(inner_model(model).config):
        return FlatBatch(flash=spec.train.attention == "flash")
    if spec.train.packing:
        return PackedBatch(pad_id)
    kind = inner_model(model).config.model_type
    raise BadInput(
        f"train.padding_free is not possible with a {kind!r} model",
        why="its attention has windows, or its output is not a plain projection",
        hint="use train.packing, or train.group_by_length against padding",
    )


def resume_from(ctx: StepContext, watch: Watch) -> Path | None:
    """The checkpoint to go on from, with the watch's counts restored; None: from the start."""
    ctx.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    found = latest_complete(ctx.checkpoints_dir, watch.config_hash)
    if found is None:
        if any(ctx.checkpoints_dir.iterdir()):
            ctx.note(
                "checkpoints of another configuration, or incomplete ones, are left aside: "
                "training starts from the beginning",
                level="warning",
            )
            if group_of(ctx).leads:
                prune(ctx.checkpoints_dir, keep=0)
        return None
    watch.restore(found.path)
    ctx.note(f"going on from step {found.number}")
    return found.path


def best_folder(session: Session) -> Path:
    """Where the weights with the lowest held-out loss are kept."""
    return session.ctx.work_dir / "best"


def load_best(session: Session, model: Any) -> bool:
    """Put the best weights back into ``model`` where the recipe keeps the best."""
    folder = best_folder(session)
    if session.spec.train.keep != "best" or not folder.is_dir():
        return False
    from safetensors.torch import load_file

    state = {}
    for file in sorted(folder.glob("*.safetensors")):
        state.update(load_file(file))
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, state)
    else:
        model.load_state_dict(state, strict=False)
    return True


def final_eval_loss(watch: Watch, best: bool) -> float | None:
    """The held-out loss of the weights that are published."""
    values = [value for _, value in watch.eval_losses]
    if not values:
        return None
    return min(values) if best else values[-1]


def mean_last(losses: list[tuple[int, float]], count: int = 10) -> float:
    """Mean of the last losses: one batch's loss says little."""
    values = [value for _, value in losses[-count:]]
    return sum(values) / len(values) if values else math.nan


def _samples_file(session: Session) -> Path:
    return session.ctx.work_dir / "samples.json"


def samples_before(session: Session, model: Any, prepared: Prepared) -> list[str]:
    """Answers of the untrained model, kept over attempts (none where no process has it whole)."""
    if not session.group.leads or session.group.shards:
        return []
    file = _samples_file(session)
    if file.exists():
        return [item["before"] for item in json.loads(file.read_text())]
    if not prepared.prompts:
        return []
    session.ctx.phase("sampling before training")
    found = answers(
        model,
        session.tokenizer,
        prepared.prompts,
        max_new_tokens=_SAMPLE_TOKENS,
        precision=session.precision,
    )
    items = [
        {"prompt": shown_prompt(prompt), "before": text}
        for prompt, text in zip(prepared.prompts, found, strict=True)
    ]
    file.write_text(json.dumps(items, ensure_ascii=False))
    return found


def tell_samples(session: Session, model: Any, prepared: Prepared, before: list[str]) -> None:
    """The same prompts after training, beside the answers from before."""
    if not before:
        return
    session.ctx.phase("sampling after training")
    after = answers(
        model,
        session.tokenizer,
        prepared.prompts,
        max_new_tokens=_SAMPLE_TOKENS,
        precision=session.precision,
    )
    items = [
        {"prompt": shown_prompt(prompt), "before": old, "after": new}
        for prompt, old, new in zip(prepared.prompts, before, after, strict=True)
    ]
    for item in items:
        session.ctx.event("sample", **item)
    _samples_file(session).write_text(json.dumps(items, ensure_ascii=False))


def outcome_samples(session: Session) -> list[dict[str, str]]:
    """The samples before and after, as kept with the run."""
    file = _samples_file(session)
    return json.loads(file.read_text()) if file.exists() else []
