"""DPO, KTO and ORPO through TRL, on rows that we have checked, counted and cut ourselves.

TRL truncates and drops rows without a word; it is given only rows that fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.data.duplicates import DuplicateIndex
from engine.data.formats import Example
from engine.data.masks import Encoded
from engine.data.report import DataReport, encode_all
from engine.data.source import DataLocation, resolve_data
from engine.errors import BadInput
from engine.worker.context import StepResult
from recipes.finetune.arguments import make_arguments, total_steps, training_arguments
from recipes.finetune.batch_size import sizes
from recipes.finetune.building import build_model, trainable_parameters
from recipes.finetune.check import shapes_for
from recipes.finetune.memory import peak_memory_bytes, settle_memory
from recipes.finetune.outcome import Outcome, publish_outcome
from recipes.finetune.rows import Prepared, examples_of, prompts_of, split
from recipes.finetune.session import Session, config_hash, open_session
from recipes.finetune.supervised import (
    best_folder,
    final_eval_loss,
    load_best,
    mean_last,
    outcome_samples,
    resume_from,
    samples_before,
    tell_report,
    tell_samples,
)
from recipes.finetune.trainer import drop_printers, saving_mixin, watch_callback
from recipes.finetune.watching import METHOD_METRICS, Watch
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec


def train(ctx: StepContext, spec: FinetuneSpec) -> StepResult:
    """Run one preference training from data to published adapter."""
    session = open_session(ctx, spec)
    ctx.phase("reading the data")
    max_length, batch = sizes(session)
    examples, held, report, sources = read_preferences(session, max_length)
    prepared = Prepared([], [], report, list(question_prompts(held or examples, spec)))
    tell_report(ctx, prepared)
    steps = total_steps(spec, len(examples), batch)
    files = [source.path for source in sources]
    run_hash = config_hash(session, files, batch=batch, max_length=max_length)

    ctx.phase("loading the model")
    model = build_model(spec, session.location, session.precision, ctx.device, ctx.paths)
    trainable, total = trainable_parameters(model)
    before = samples_before(session, model, prepared)
    watch = Watch(ctx, spec, run_hash, steps)
    trainer = preference_trainer(session, model, examples, held, watch, batch, steps, max_length)
    trained = run_trainer(ctx, trainer, watch)
    if watch.measure is not None and not watch.eval_losses:
        watch.evaluate(steps)
    best = load_best(session, trained)
    tell_samples(session, trained, prepared, before)
    return publish_outcome(
        session,
        Outcome(
            model=trained,
            steps=steps,
            loss=mean_last(watch.losses),
            eval_loss=final_eval_loss(watch, best),
            tokens_per_s=watch.tokens_per_s,
            tokens_seen=watch.tokens_seen,
            trainable=trainable,
            parameters=total,
            peak_memory_bytes=peak_memory_bytes(ctx.device),
            report=report,
            sources=sources,
            samples=outcome_samples(session),
            losses=watch.losses,
            eval_losses=watch.eval_losses,
            metrics=watch.method_metrics(),
        ),
    )


def run_trainer(ctx: StepContext, trainer: Any, watch: Watch) -> Any:
    """Train (or go on) with a ready trainer and return the trained model.

    Raises:
        Stopped: a stop was asked for; a checkpoint is kept.
    """
    resume = resume_from(ctx, watch)
    settle_memory(ctx.device)
    ctx.phase("training")
    with quiet_libraries():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if watch.stopping:
        ctx.raise_stopped()
    return trainer.accelerator.unwrap_model(trainer.model)


def read_preferences(
    session: Session, max_length: int
) -> tuple[list[Example], list[Example], DataReport, list[DataLocation]]:
    """Rows that the method can learn from and that fit, with their report.

    Raises:
        BadInput: rows of another shape, one-sided labels, or none left.
    """
    spec, paths = session.spec, session.ctx.paths
    location = resolve_data(spec.data.train, paths)
    sources = [location]
    examples, held = split(list(examples_of(spec.data, location)), spec.data, spec.seed)
    if spec.data.eval is not None:
        sources.append(resolve_data(spec.data.eval, paths))
        held = list(examples_of(spec.data, sources[-1]))
    check_shapes(spec, examples, location.name)
    report = DataReport(
        location.name,
        format=examples[0].shape,
        max_length=max_length,
        # an answer cut in the middle is no fair comparison: such rows are always left out
        on_truncate="fail" if spec.data.on_truncate == "fail" else "drop",
    )
    encoded = encode_all(
        examples,
        session.encoder,
        report,
        index=DuplicateIndex(),
        drop_duplicates=spec.data.duplicates == "drop",
        held_out=held,
    )
    kept = {row.number for row in encoded}
    left = [example for example in examples if example.number in kept]
    if not left:
        raise BadInput(
            f"no row of {location.name} is left to learn from", why="; ".join(report.warnings())
        )
    tell_balance(session, left)
    return left, held_out_rows(session, held, location.name, max_length), report, sources


def held_out_rows(
    session: Session, held: Sequence[Example], name: str, max_length: int
) -> list[Example]:
    """Held-out rows that can be measured; how many are too long is said.

    Raises:
        BadInput: rows of another shape, or none that fits.
    """
    if not held:
        return []
    check_shapes(session.spec, held, f"{name} (held out)", measured=True)
    encoded = session.encoder.encode_many(held)
    fitting = [
        example
        for example, row in zip(held, encoded, strict=True)
        if isinstance(row, Encoded) and row.length <= max_length
    ]
    if not fitting:
        raise BadInput(
            "no held-out row can be measured", why=f"none of {len(held)} fits {max_length} tokens"
        )
    if len(fitting) < len(held):
        session.ctx.note(
            f"{len(held) - len(fitting)} held-out rows are too long and are not measured",
            level="warning",
        )
    return fitting


def measure_by(trainer: Any, watch: Watch) -> Callable[[], float]:
    """The held-out loss by the trainer's own evaluation; its accuracy goes to the watch.

    Random numbers are put back afterwards: a run learns the same whether it is measured or not.
    """

    def measure() -> float:
        import torch

        devices = list(range(torch.cuda.device_count()))
        was_training = trainer.model.training
        with torch.random.fork_rng(devices=devices), quiet_libraries():
            found = trainer.evaluate()
        trainer.model.train(was_training)
        for key, value in found.items():
            name = METHOD_METRICS.get(key.removeprefix("eval_"))
            if name is not None and key.startswith("eval_"):
                watch.held_out[f"eval_{name}"] = float(value)
        return float(found["eval_loss"])

    return measure


def tell_balance(session: Session, examples: Sequence[Example]) -> None:
    """Warn where KTO's wanted and unwanted answers are far from equally many.

    The bounds are those of the KTO paper (Ethayarajh et al. 2024, section 4.2): outside of a ratio
    of 3/4 to 4/3 the rarer label should weigh more.
    """
    if session.spec.train.method != "kto":
        return
    wanted = sum(example.label for example in examples)
    unwanted = len(examples) - wanted
    if not 0.75 <= wanted / max(unwanted, 1) <= 4 / 3:
        session.ctx.note(
            f"{wanted} wanted and {unwanted} unwanted answers: give the rarer ones more weight "
            "with desirable_weight or undesirable_weight in [trainer]",
            level="warning",
        )


def check_shapes(
    spec: FinetuneSpec, examples: Sequence[Example], name: str, measured: bool = False
) -> None:
    """Refuse rows the method can't learn from, and labels that are all the same.

    Raises:
        BadInput: which rows.
    """
    method = spec.train.method
    wrong = [e for e in examples if e.shape not in shapes_for(method)]
    if wrong:
        wanted = ", ".join(sorted(shapes_for(method)))
        raise BadInput(
            f"{name}: method {method!r} can't learn from {wrong[0].shape} rows",
            why=f"row {wrong[0].number} is one of {len(wrong)}",
            hint=f"it learns from {wanted} rows",
        )
    same = [e.number for e in examples if e.shape == "preference" and e.completion == e.rejected]
    if same:
        raise BadInput(
            f"{name}: {len(same)} rows prefer an answer to itself",
            why=f"chosen and rejected are the same in row {', '.join(map(str, same[:10]))}",
            hint="remove these rows: they teach nothing and pull the loss to a constant",
        )
    labels = {e.label for e in examples}
    if method == "kto" and len(labels) == 1 and not measured:
        raise BadInput(
            f"{name}: every label is {next(iter(labels))}".lower(),
            why="KTO compares wanted with unwanted answers",
            hint="give rows of both labels, about equally many",
        )


def question_prompts(examples: Sequence[Example], spec: FinetuneSpec) -> list[Any]:
    """Conversations to sample from, from whatever shape the rows have."""
    chats = []
    for example in examples[: spec.train.samples]:
        prompt = example.prompt
        messages = (
            ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        )
        answer = {"role": "assistant", "content": ""}
        chats.append(replace(example, shape="chat", messages=(*messages, answer)))
    return list(prompts_of(chats, spec.train.samples))


def dataset_rows(session: Session, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows as TRL takes them: conversations where there is a chat template, else plain text."""
    conversational = bool(session.tokenizer.chat_template)

    def prompt_of(example: Example) -> Any:
        if isinstance(example.prompt, str) and conversational:
            return [{"role": "user", "content": example.prompt}]
        return example.prompt if isinstance(example.prompt, str) else list(example.prompt)

    def answer_of(answer: Any) -> Any:
        if isinstance(answer, str) and conversational:
            return [{"role": "assistant", "content": answer}]
        return answer if isinstance(answer, str) else list(answer)

    rows = []
    for example in examples:
        row: dict[str, Any] = {"prompt": prompt_of(example)}
        if example.shape == "kto":
            row |= {"completion": answer_of(example.completion), "label": example.label}
        else:
            row |= {
                "chosen": answer_of(example.completion),
                "rejected": answer_of(example.rejected),
            }
        rows.append(row)
    return rows


def preference_trainer(
    session: Session,
    model: Any,
    examples: Sequence[Example],
    held: Sequence[Example],
    watch: Watch,
    batch: int,
    steps: int,
    max_length: int,
) -> Any:
    """TRL's trainer of the recipe's method, with our checkpoints and events."""
    spec = session.spec
    with quiet_libraries():
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        kind, config = _library(spec.train.method)
        values = training_arguments(session.ctx, spec, steps, batch)
        values |= trl_arguments(session)
        values |= {"beta": spec.preference.beta, "max_length": max_length + 8, **spec.trainer}
        if spec.train.method == "kto":
            # its KL term pairs each row with its neighbour: the order is fixed, so we shuffle
            values["train_sampling_strategy"] = "sequential"
            examples = random.Random(spec.seed).sample(list(examples), len(examples))  # noqa: S311
            held = random.Random(spec.seed).sample(list(held), len(held))  # noqa: S311
        values["per_device_eval_batch_size"] = batch
        trainer = saving_mixin(kind)(
            model=model,
            args=make_arguments(config, values),
            train_dataset=Dataset.from_list(dataset_rows(session, examples)),
            eval_dataset=Dataset.from_list(dataset_rows(session, held)) if held else None,
            processing_class=session.tokenizer,
            callbacks=[watch_callback(watch)],
        )
    trainer.watch = watch
    if held:
        watch.measure = measure_by(trainer, watch)
        if spec.train.keep == "best":
            watch.keep_best = lambda: trainer.accelerator.unwrap_model(
                trainer.model
            ).save_pretrained(best_folder(session))
    drop_printers(trainer)
    return trainer


def trl_arguments(session: Session) -> dict[str, Any]:
    """What TRL's own defaults would set otherwise (bf16 on a CPU, checkpointing on)."""
    return {
        "bf16": session.precision.name == "bf16",
        "fp16": session.precision.name == "fp16",
        "gradient_checkpointing": session.spec.train.checkpointing,
        "label_names": None,
    }


def _library(method: str) -> tuple[Any, Any]:
    import trl

    if method == "dpo":
        return trl.DPOTrainer, trl.DPOConfig
    if method == "kto":
        return trl.KTOTrainer, trl.KTOConfig
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer, ORPOConfig
