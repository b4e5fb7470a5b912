"""GRPO through TRL: answers are sampled, scored by a reward model or a plugin, and reinforced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from engine.data.duplicates import DuplicateIndex
from engine.data.formats import Example
from engine.data.report import DataReport, encode_all
from engine.data.source import resolve_data
from engine.errors import BadInput
from engine.worker.context import StepResult
from recipes.evaluate.generation import answers
from recipes.finetune.arguments import make_arguments, training_arguments
from recipes.finetune.batch_size import sizes
from recipes.finetune.building import build_model, trainable_parameters
from recipes.finetune.memory import peak_memory_bytes
from recipes.finetune.outcome import Outcome, publish_outcome
from recipes.finetune.preference import question_prompts, run_trainer, trl_arguments
from recipes.finetune.reward_model import Reward, find_reward
from recipes.finetune.rows import Prepared, examples_of, split
from recipes.finetune.session import Session, config_hash, open_session
from recipes.finetune.supervised import (
    mean_last,
    outcome_samples,
    samples_before,
    tell_report,
    tell_samples,
)
from recipes.finetune.trainer import drop_printers, saving_mixin, watch_callback
from recipes.finetune.watching import Watch
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec


def train(ctx: StepContext, spec: FinetuneSpec) -> StepResult:
    """Run one GRPO training from prompts and a reward to a published adapter."""
    session = open_session(ctx, spec)
    ctx.phase("reading the data")
    max_length, batch = sizes(session)
    source = resolve_data(spec.data.train, ctx.paths)
    examples, held = split(list(examples_of(spec.data, source)), spec.data, spec.seed)
    if spec.data.eval is not None:
        held = list(examples_of(spec.data, resolve_data(spec.data.eval, ctx.paths)))
    report = DataReport(
        source.name,
        format="prompt",
        max_length=max_length,
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
    examples = [example for example in examples if example.number in kept]
    if not examples:
        raise BadInput(f"no prompt of {source.name} is left", why="; ".join(report.warnings()))
    prompts = question_prompts(examples, spec)
    prepared = Prepared([], [], report, prompts)
    tell_report(ctx, prepared)
    reward = find_reward(str(spec.preference.reward), session)
    steps = spec.train.max_steps or grpo_steps(spec, len(examples), batch)
    run_hash = config_hash(session, [source.path], batch=batch)

    ctx.phase("loading the model")
    model = build_model(spec, session.location, session.precision, ctx.device, ctx.paths)
    trainable, total = trainable_parameters(model)
    before = samples_before(session, model, prepared)
    watch = Watch(ctx, spec, run_hash, steps)
    measure_held_out(session, model, held, reward, watch, "before")
    trainer = grpo_trainer(session, model, examples, reward, watch, batch, steps)
    trained = run_trainer(ctx, trainer, watch)
    measure_held_out(session, trained, held, reward, watch, "after")
    tell_samples(session, trained, prepared, before)
    return publish_outcome(
        session,
        Outcome(
            model=trained,
            steps=steps,
            loss=mean_last(watch.losses),
            eval_loss=None,
            tokens_per_s=watch.tokens_per_s,
            tokens_seen=watch.tokens_seen,
            trainable=trainable,
            parameters=total,
            peak_memory_bytes=peak_memory_bytes(ctx.device),
            report=report,
            sources=(source,),
            samples=outcome_samples(session),
            losses=watch.losses,
            metrics=watch.method_metrics(),
        ),
    )


def measure_held_out(
    session: Session,
    model: Any,
    held: Sequence[Example],
    reward: Reward,
    watch: Watch,
    when: Literal["before", "after"],
) -> None:
    """Mean reward of greedy answers to questions that are not trained on, told and kept.

    What was measured before training is kept over attempts: a resumed run's weights are others.
    Random numbers are put back: a run learns the same whether it is measured or not.
    """
    if not held:
        return
    import torch

    name = "eval_reward_before" if when == "before" else "eval_reward"
    file = session.ctx.work_dir / "held_out_reward.json"
    if when == "before" and file.exists():
        watch.held_out[name] = float(json.loads(file.read_text()))
        return
    session.ctx.phase(f"measuring {len(held)} held-out prompts {when} training")
    prompts = [prompt_of(example, conversational=True) for example in held]
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        texts = answers(
            model,
            session.tokenizer,
            prompts,
            max_new_tokens=session.spec.preference.answer_tokens,
            precision=session.precision,
        )
        scores = reward([_text(prompt) for prompt in prompts], texts)
    watch.held_out[name] = sum(scores) / len(scores)
    done = 0 if when == "before" else watch.total
    session.ctx.event("metrics", done=done, total=watch.total, **{name: watch.held_out[name]})
    if when == "before":
        file.write_text(json.dumps(watch.held_out[name]))


def grpo_steps(spec: FinetuneSpec, prompts: int, batch: int) -> int:
    """Optimizer steps: every prompt is answered ``generations`` times per epoch.

    Raises:
        BadInput: a step's answers are no whole number of groups.
    """
    answers = batch * spec.train.accumulate
    if answers % spec.preference.generations:
        raise BadInput(
            f"train.batch x train.accumulate = {answers} answers are no whole number of groups",
            why=f"preference.generations = {spec.preference.generations} answers make one group",
            hint="make the product a multiple of preference.generations",
        )
    per_step = answers // spec.preference.generations
    return max(1, int(prompts / per_step * spec.train.epochs))


def grpo_trainer(
    session: Session,
    model: Any,
    examples: Sequence[Example],
    reward: Reward,
    watch: Watch,
    batch: int,
    steps: int,
) -> Any:
    """TRL's GRPO trainer with our reward, checkpoints and events."""
    spec = session.spec
    # the number of answers per step is checked also where max_steps says how many there are
    grpo_steps(spec, len(examples), batch)
    conversational = bool(session.tokenizer.chat_template)
    rows = [{"prompt": prompt_of(example, conversational)} for example in examples]

    def score(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        questions = [_text(prompt) for prompt in prompts]
        texts = [_text(completion) for completion in completions]
        watch.tokens_seen += sum(
            len(ids) for ids in session.tokenizer(texts, add_special_tokens=False)["input_ids"]
        )
        return reward(questions, texts)

    with quiet_libraries():
        from datasets import Dataset, disable_progress_bars
        from trl import GRPOConfig, GRPOTrainer

        disable_progress_bars()
        options = spec.preference
        values = training_arguments(session.ctx, spec, steps, batch)
        values |= trl_arguments(session)
        values |= {
            "beta": options.beta,
            "num_generations": options.generations,
            "max_completion_length": options.answer_tokens,
            "temperature": options.temperature,
            "max_steps": steps,
            **spec.trainer,
        }
        trainer = saving_mixin(GRPOTrainer)(
            model=model,
            reward_funcs=score,
            args=make_arguments(GRPOConfig, values),
            train_dataset=Dataset.from_list(rows),
            processing_class=session.tokenizer,
            callbacks=[watch_callback(watch)],
        )
    trainer.watch = watch
    drop_printers(trainer)
    return trainer


def prompt_of(example: Example, conversational: bool) -> Any:
    """The question of any row shape, as TRL takes it."""
    prompt: Any = example.prompt
    if example.shape == "chat" and not prompt:
        turns = [i for i, m in enumerate(example.messages) if m["role"] == "assistant"]
        prompt = example.messages[: turns[-1]] if turns else example.messages
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if conversational else prompt
    return [dict(message) for message in prompt]


def _text(piece: Any) -> str:
    return piece if isinstance(piece, str) else str(piece[-1]["content"])
