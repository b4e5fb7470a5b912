"""The training loss, computed for learned tokens only.

The vocabulary projection is a fifth of a small model's work and most of its memory: hidden states
of tokens whose loss is not taken (prompts, padding) never meet it. The value is the same.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from recipes.finetune.attention import NAME
from recipes.finetune.batches import IGNORED
from recipes.finetune.fused import linear_cross_entropy

#: Architectures whose logits are exactly ``lm_head(last hidden state)``: no scaling, no soft cap.
PLAIN_HEADS = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "phi3", "smollm3"}
    | {"gemma", "olmo2", "starcoder2", "stablelm"}
)


def inner_model(model: Any) -> Any:
    """The causal language model under PEFT's wrapper (the wrapper's hooks stay in place)."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def can_select(model: Any) -> bool:
    """Whether ``selective_loss`` gives this model's own loss."""
    inner = inner_model(model)
    return (
        getattr(inner.config, "model_type", "") in PLAIN_HEADS
        and inner.get_output_embeddings() is not None
        and hasattr(inner, "model")
    )


def selective_loss(
    model: Any, inputs: dict[str, Any], items: Any = None, fused: bool = True
) -> Any:
    """Cross entropy over the learned tokens.

    Args:
        model: a causal language model, with or without adapters.
        inputs: ``input_ids`` and ``labels`` of shape (batch, length), and what else the decoder
            takes (``attention_mask`` or ``position_ids`` and the rows' borders).
        items: number of learned tokens of the whole optimizer step (None: of this batch).
        fused: compute the loss in chunks of tokens (see ``recipes.finetune.fused``).

    Returns:
        The summed loss divided by ``items``: a scalar tensor in fp32.
    """
    inner = inner_model(model)
    targets = inputs["labels"][:, 1:]
    chosen = targets != IGNORED
    # rows are padded on the right and attention is causal: no learned token ever sees padding, and
    # without a mask torch takes its causal kernel
    passed = {k: v for k, v in inputs.items() if k not in ("labels", "attention_mask")}
    if "cu_seq_lens_q" in passed and inner.config._attn_implementation == NAME:
        # four dimensions: transformers hands it on as it is, and row_attention never looks at it
        passed["attention_mask"] = passed["input_ids"].new_zeros((1, 1, 1, 1))
    hidden = inner.model(**passed, use_cache=False).last_hidden_state
    learned, wanted = hidden[:, :-1][chosen], targets[chosen]
    head = inner.get_output_embeddings()
    if fused and head.bias is None:
        total = linear_cross_entropy(learned, head.weight, wanted)
    else:
        import torch

        logits = head(learned).float()
        total = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    return total / (chosen.sum() if items is None else items)


def give_loss(model: Any, fused: bool) -> None:
    """Let ``model(..., loss_items=n)`` itself give ``selective_loss``.

    DDP, FSDP and DeepSpeed wrap the model's call: they gather weights before it and exchange
    gradients only for what was computed in it. Without ``loss_items`` the call is as it was.
    """
    plain = model.forward

    # wraps: transformers reads the arguments of ``forward`` when it generates
    @wraps(plain)
    def forward(*args: Any, loss_items: Any = None, **inputs: Any) -> Any:
        if loss_items is None:
            return plain(*args, **inputs)
        return selective_loss(model, inputs, loss_items, fused)

    model.forward = forward
