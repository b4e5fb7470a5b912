"""Reward models: the frozen base's hidden states once, then heads trained on pairs.

The base is read a single time, so that a linear and a spiking head can be trained side by side in
seconds, and compared on the same pairs.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from engine.data.formats import Example
from engine.data.masks import sides
from engine.errors import BadInput
from engine.worker.context import StepResult
from recipes.finetune.arguments import total_steps
from recipes.finetune.batch_size import sizes
from recipes.finetune.memory import peak_memory_bytes
from recipes.finetune.preference import read_preferences
from recipes.finetune.reward_heads import make_head, pairwise_loss
from recipes.finetune.session import Session, config_hash, open_session
from recipes.finetune.supervised import mean_last
from recipes.finetune.watching import Watch
from recipes.loading import base_artifact, load_causal_lm

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Pairs:
    """Hidden states of both answers, shape (pairs, width)."""

    chosen: Any
    rejected: Any


@dataclass
class Trained:
    """A trained head and how often it ranks a pair rightly (0 to 1)."""

    kind: str
    head: Any
    losses: list[tuple[int, float]]
    accuracy: float
    held_out_accuracy: float
    parameters: int


def train(ctx: StepContext, spec: FinetuneSpec) -> StepResult:
    """Train one or both heads and publish the better one with both accuracies."""
    session = open_session(ctx, spec)
    ctx.phase("reading the data")
    max_length, batch = sizes(session)
    examples, held, report, sources = read_preferences(session, max_length)
    ctx.event("table", **report.table())
    if not held:
        examples, held = set_aside(examples, spec.seed)
    files = [source.path for source in sources]
    run_hash = config_hash(session, files, max_length=max_length)
    train_pairs = features(session, examples, max_length, batch, f"train-{run_hash[:16]}")
    held_pairs = features(session, held, max_length, batch, f"held-{run_hash[:16]}")
    steps = total_steps(spec, len(examples), batch)
    per_step = batch * spec.train.accumulate
    kinds = ["linear", "spiking"] if spec.preference.head == "both" else [spec.preference.head]
    if "linear" not in kinds:
        # a spiking head is always shown beside the linear baseline
        kinds.insert(0, "linear")
    trained = [
        train_head(session, kind, train_pairs, held_pairs, per_step, steps, run_hash)
        for kind in kinds
    ]
    return publish(session, trained, report.table(), sources)


def set_aside(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """A fifth of the pairs for the accuracy, where the recipe holds none out.

    Raises:
        BadInput: fewer than five pairs.
    """
    if len(examples) < 5:
        raise BadInput("a reward model needs at least 5 pairs", why=f"there are {len(examples)}")
    order = random.Random(seed + 1).sample(range(len(examples)), len(examples))  # noqa: S311
    count = max(1, round(len(examples) * _HELD_OUT))
    held = set(order[:count])
    return (
        [e for i, e in enumerate(examples) if i not in held],
        [e for i, e in enumerate(examples) if i in held],
    )


def features(
    session: Session, examples: Sequence[Example], max_length: int, batch: int, name: str
) -> Pairs:
    """The base's last hidden state at the end of both answers; kept in the work folder."""
    from safetensors.torch import load_file, save_file

    ctx = session.ctx
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    file = ctx.work_dir / f"features-{name}.safetensors"
    if not file.exists():
        ctx.phase("reading the base's hidden states")
        model = load_causal_lm(
            session.location, session.precision.compute_dtype, ctx.device, paths=ctx.paths
        )
        both = [side for example in examples for side in sides(example)]
        ids = [session.encoder.encode(side, max_length).ids for side in both]
        hidden = last_hidden(session, model, ids, batch)
        scratch = file.with_suffix(".part")
        save_file(
            {"chosen": hidden[0::2].contiguous(), "rejected": hidden[1::2].contiguous()}, scratch
        )
        scratch.rename(file)
    found = load_file(file)
    return Pairs(found["chosen"], found["rejected"])


def last_hidden(session: Session, model: Any, ids: Sequence[list[int]], batch: int) -> Any:
    """Hidden state of each row's last token, fp32, shape (rows, width), in the order of ``ids``."""
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Any] = [None] * len(ids)
    autocast = session.precision.autocast
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=getattr(torch, autocast)) if autocast else nullcontext(),
    ):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            longest = max(len(ids[i]) for i in rows)
            pad = session.tokenizer.pad_token_id
            tokens = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in rows])
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in rows])
            hidden = model.model(
                input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False
            ).last_hidden_state
            for row, index in enumerate(rows):
                found[index] = hidden[row, len(ids[index]) - 1].float().cpu()
            session.ctx.progress(min(start + batch, len(ids)), len(ids), "rows")
            if session.ctx.should_stop:
                session.ctx.raise_stopped()
    return torch.stack(found)


def train_head(
    session: Session,
    kind: str,
    train_pairs: Pairs,
    held_pairs: Pairs,
    batch: int,
    steps: int,
    run_hash: str,
) -> Trained:
    """Train one head by pairwise loss; it takes seconds and starts anew at every attempt."""
    import torch

    spec, ctx = session.spec, session.ctx
    ctx.phase(f"training the {kind} head")
    torch.manual_seed(spec.seed)
    scale = normaliser(train_pairs)
    options = spec.preference
    head = make_head(kind, train_pairs.chosen.shape[1], options.neurons, options.ticks)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=spec.learning_rate, weight_decay=spec.train.weight_decay
    )
    watch = Watch(ctx, spec, run_hash, steps)
    watch.begin(0)
    count = len(train_pairs.chosen)
    order: list[int] = []
    for step in range(1, steps + 1):
        while len(order) < batch:
            order += torch.randperm(count).tolist()
        rows, order = order[:batch], order[batch:]
        chosen, rejected = (
            head(scale(pairs[rows])) for pairs in (train_pairs.chosen, train_pairs.rejected)
        )
        loss = pairwise_loss(chosen, rejected)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), spec.train.clip or 1e9)
        optimizer.step()
        watch.tokens_seen += 2 * batch
        logs = {
            "loss": float(loss.detach()),
            "grad_norm": float(norm),
            "learning_rate": spec.learning_rate,
            "accuracy": float((chosen > rejected).float().mean()),
        }
        watch.logged(step, step * batch / count, logs)
        if ctx.should_stop:
            ctx.raise_stopped()
    head.eval()
    return Trained(
        kind,
        head,
        watch.losses,
        accuracy(head, scale, train_pairs),
        accuracy(head, scale, held_pairs),
        sum(p.numel() for p in head.parameters()),
    )


class Scale:
    """Features with mean 0 and variance 1 over the training answers."""

    def __init__(self, mean: Any, deviation: Any) -> None:
        self.mean, self.deviation = mean, deviation

    def __call__(self, values: Any) -> Any:
        return (values - self.mean) / self.deviation


def normaliser(pairs: Pairs) -> Scale:
    """The scale of the training answers."""
    import torch

    values = torch.cat([pairs.chosen, pairs.rejected])
    return Scale(values.mean(0), values.std(0) + 1e-6)


def accuracy(head: Any, scale: Scale, pairs: Pairs) -> float:
    """Share of pairs whose chosen answer gets the higher reward."""
    import torch

    with torch.inference_mode():
        better = head(scale(pairs.chosen)) > head(scale(pairs.rejected))
    return float(better.float().mean())


def publish(
    session: Session, trained: list[Trained], report: dict[str, Any], sources: Sequence[Any]
) -> StepResult:
    """Publish the head asked for (of both: the better one on held-out pairs)."""
    from safetensors.torch import load_file, save_file

    ctx, spec = session.ctx, session.spec
    wanted = spec.preference.head
    best = max(
        (t for t in trained if wanted in ("both", t.kind)), key=lambda t: t.held_out_accuracy
    )
    folder = ctx.work_dir / "output"
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = {f"head.{key}": value.contiguous() for key, value in best.head.state_dict().items()}
    pairs = load_file(next(ctx.work_dir.glob("features-train-*.safetensors")))
    scale = normaliser(Pairs(pairs["chosen"], pairs["rejected"]))
    save_file(
        {**state, "mean": scale.mean, "deviation": scale.deviation}, folder / "reward.safetensors"
    )
    write_description(folder / "reward.json", session, best)
    table = heads_table(trained)
    ctx.event("table", **table)
    metrics = {f"{t.kind}_accuracy": t.held_out_accuracy for t in trained}
    metrics |= {"loss": mean_last(best.losses), "accuracy": best.held_out_accuracy}
    metrics["peak_memory_bytes"] = float(peak_memory_bytes(ctx.device))
    registry = ctx.registry()
    parents = [("base", base_artifact(session.location, ctx.paths, registry))]
    parents += [("dataset", s.manifest) for s in sources if s.manifest is not None]
    view = registry.publish(
        name=f"{ctx.job_name}.{ctx.step}",
        artifact_type="adapter",
        files=folder,
        parents=parents,
        metrics=metrics,
        card=card(session, best, table),
        license=session.location.root.license,
        run={"job": ctx.job_id, "step": ctx.step, "method": "reward", "head": best.kind},
        key=f"{ctx.job_id}/{ctx.step}/model",
    )
    ctx.event("artifact", manifest=view.id, artifact_type=view.artifact_type, name=view.name)
    outputs = {"model": view.id, "loss": mean_last(best.losses)}
    return StepResult(outputs, (report, table))


def write_description(path: Path, session: Session, best: Trained) -> None:
    """What is needed to build the head again."""
    options = session.spec.preference
    facts = {
        "head": best.kind,
        "neurons": options.neurons,
        "ticks": options.ticks,
        "base": session.location.root.name,
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path.write_text(json.dumps(facts, indent=2) + "\n")


def heads_table(trained: Sequence[Trained]) -> dict[str, Any]:
    """Both heads side by side."""
    rows = [
        [t.kind, round(t.accuracy, 4), round(t.held_out_accuracy, 4), t.parameters] for t in trained
    ]
    return {
        "title": "Reward heads",
        "columns": ["head", "accuracy, training pairs", "accuracy, held-out pairs", "parameters"],
        "rows": rows,
        "notes": ["chance is 0.5; the base is frozen, both heads see the same hidden states"],
    }


def card(session: Session, best: Trained, table: dict[str, Any]) -> str:
    """What was trained, and how well each head ranks."""
    lines = [
        f"# {session.ctx.job_name}",
        "",
        f"A {best.kind} reward head on {session.location.name}.",
    ]
    lines += ["", *(f"- {row[0]}: held-out accuracy {row[2]}" for row in table["rows"])]
    return "\n".join(lines) + "\n"
