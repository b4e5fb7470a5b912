"""Loss and perplexity, weighted by token: the same number whatever the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.finetune.batches import IGNORED, PaddedBatch
from recipes.finetune.loss import can_select, inner_model

if TYPE_CHECKING:
    from recipes.finetune.rows import TokenRow
    from recipes.loading import Precision

#: Rows of the vocabulary projection computed at once: bounds memory at 512 x vocabulary x 4 bytes.
_PROJECTED = 512


@dataclass(frozen=True)
class Score:
    """Summed negative log-likelihood (nats) over a number of predicted tokens."""

    nll: float
    tokens: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token, in nats."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(loss)``; infinite where that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


def score_rows(
    model: Any,
    rows: Sequence[TokenRow],
    *,
    pad_id: int,
    batch: int,
    precision: Precision,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Score the learned tokens of ``rows``.

    Args:
        model: a causal language model; its training mode is restored afterwards.
        rows: encoded rows; those without a learned token count nothing.
        pad_id: padding token.
        batch: rows at once; rows of similar length go together.
        precision: what the products are computed in.
        progress: called with the number of rows done.
    """
    import torch

    device = next(model.parameters()).device
    collate = PaddedBatch(pad_id)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    was_training = model.training
    model.eval()
    nll, tokens = 0.0, 0
    autocast = (
        torch.autocast(device.type, dtype=getattr(torch, precision.autocast))
        if precision.autocast
        else nullcontext()
    )
    try:
        with torch.inference_mode(), autocast:
            for start in range(0, len(order), batch):
                items = [{"rows": [rows[i]]} for i in order[start : start + batch]]
                inputs = {k: v.to(device) for k, v in collate(items).items()}
                part, count = _score(model, inputs)
                nll += part
                tokens += count
                if progress is not None:
                    progress(min(start + batch, len(order)))
    finally:
        model.train(was_training)
    return Score(nll, tokens)


def _score(model: Any, inputs: dict[str, Any]) -> tuple[float, int]:
    import torch

    targets = inputs["labels"][:, 1:]
    chosen = targets != IGNORED
    wanted = targets[chosen]
    if not len(wanted):
        return 0.0, 0
    passed = {key: value for key, value in inputs.items() if key != "labels"}
    cross_entropy = torch.nn.functional.cross_entropy
    if not can_select(model):
        logits = model(**passed, use_cache=False).logits[:, :-1][chosen]
        return float(cross_entropy(logits.float(), wanted, reduction="sum")), len(wanted)
    inner = inner_model(model)
    head = inner.get_output_embeddings()
    hidden = inner.model(**passed, use_cache=False).last_hidden_state[:, :-1][chosen]
    total = 0.0
    for start in range(0, len(wanted), _PROJECTED):
        logits = head(hidden[start : start + _PROJECTED]).float()
        total += float(
            cross_entropy(logits, wanted[start : start + _PROJECTED], reduction="sum").double()
        )
    return total, len(wanted)
