"""A model that is spread over the processes: measured together, put together at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from engine.errors import IntegrityError, MissingPart
from recipes.evaluate.perplexity import Score
from recipes.finetune.batches import PaddedBatch
from recipes.finetune.building import build_model
from recipes.finetune.group import Group

if TYPE_CHECKING:
    from recipes.finetune.rows import TokenRow
    from recipes.finetune.session import Session
    from recipes.loading import Precision


def allow_sharding(group: Group, device: str) -> None:
    """Let accelerate see FSDP on a CPU. Call between the training arguments and the trainer.

    Accelerate 1.15 looks for FSDP only among the process groups of GPUs and would train by DDP
    without a word; the sharding itself (torch's own, over gloo) works there.
    """
    if device == "cpu" and group.shards and group.strategy == "fsdp":
        from accelerate import DistributedType, PartialState

        PartialState().distributed_type = DistributedType.MULTI_GPU


def check_in_effect(trainer: Any, group: Group) -> None:
    """Make sure that the model is really spread as the recipe asks.

    Accelerate takes what it can't do on a device for DDP without a word.

    Raises:
        MissingPart: the strategy is not in effect.
    """
    enabled = {
        "ddp": True,
        "fsdp": bool(trainer.is_fsdp_enabled),
        "deepspeed": bool(trainer.is_deepspeed_enabled),
    }
    if group.size > 1 and not enabled[group.strategy]:
        kind = trainer.accelerator.distributed_type
        raise MissingPart(
            f"train.distributed.strategy = {group.strategy!r} is not in effect here",
            why=f"accelerate has chosen {kind} on {trainer.args.device}",
            hint='use strategy = "ddp"',
        )


def add_up(group: Group, score: Score) -> Score:
    """The scores of all processes as one. Every process must call it."""
    told = group.gather([score.nll, score.tokens])
    return Score(sum(row[0] for row in told), int(sum(row[1] for row in told)))


def measure_together(
    trainer: Any,
    rows: Sequence[TokenRow],
    group: Group,
    *,
    pad_id: int,
    batch: int,
    precision: Precision,
) -> Score:
    """Held-out score of a model that no process holds whole.

    A forward pass gathers weights from every process, so all make the same number of them: one
    that has no batch left repeats its first and counts it nothing.

    Args:
        trainer: while or after it trains; its model takes ``loss_items`` (see ``loss.give_loss``).
        rows: all held-out rows, the same in every process.
        group: the processes.
        pad_id: padding token.
        batch: rows at once.
        precision: what the products are computed in.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    every = [order[i : i + batch] for i in range(0, len(order), batch)]
    mine = every[group.rank :: group.size]
    model, device = trainer.model_wrapped, trainer.args.device
    was_training = model.training
    model.eval()
    nll, tokens = 0.0, 0
    try:
        for turn in range(math.ceil(len(every) / group.size)):
            counts = turn < len(mine)
            items = [{"rows": [rows[i]]} for i in (mine[turn] if counts else every[0])]
            inputs = {key: value.to(device) for key, value in PaddedBatch(pad_id)(items).items()}
            autocast = (
                torch.autocast(device.type, dtype=getattr(torch, precision.autocast))
                if precision.autocast
                else nullcontext()
            )
            # not inference_mode: gathered weights are views that later steps write to
            with torch.no_grad(), autocast:
                value = float(model(**inputs, loss_items=1))
            if counts:
                nll += value
                tokens += int((inputs["labels"][:, 1:] != -100).sum())
    finally:
        model.train(was_training)
    return add_up(group, Score(nll, tokens))


def whole_again(session: Session, trainer: Any) -> Any:
    """The trained model in one piece, in the leader's main memory; None in the other processes.

    Every process must call it. The weights are gathered (accelerate's way for each strategy) and
    put into a model that is built anew, without any wrapper.

    Raises:
        IntegrityError: what was gathered is not what the model has.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not session.group.leads:
        return None
    if session.group.strategy == "deepspeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        # with it, from_pretrained would spread the new model over processes that have left
        unset_hf_deepspeed_config()
    model = build_model(
        session.spec, session.location, session.precision, session.device, session.ctx.paths, "cpu"
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    lost = sorted(trained & set(missing))
    if lost or unexpected:
        raise IntegrityError(
            "the weights of the processes could not be put together",
            why=f"missing: {lost[:3]}, unexpected: {sorted(unexpected)[:3]}",
        )
    return model
