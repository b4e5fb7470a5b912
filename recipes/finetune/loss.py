"""The training loss, computed for learned tokens only.

The vocabulary projection is a fifth of a small model's work and most of its memory: hidden states
of tokens whose loss is not taken (prompts, padding) never meet it. The value is the same.
"""

from __future__ import annotations

from typing import Any

from recipes.finetune.batches import IGNORED

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


def selective_loss(model: Any, inputs: dict[str, Any], items: Any = None) -> Any:
    """Cross entropy over the learned tokens.

    Args:
        model: a causal language model, with or without adapters.
        inputs: ``input_ids`` and ``labels`` of shape (batch, length), and what else the decoder
            takes (``attention_mask`` or ``position_ids``).
        items: number of learned tokens of the whole optimizer step (None: of this batch).

    Returns:
        The summed loss divided by ``items``: a scalar tensor in fp32.
    """
    import torch

    inner = inner_model(model)
    targets = inputs["labels"][:, 1:]
    chosen = targets != IGNORED
    passed = {key: value for key, value in inputs.items() if key != "labels"}
    hidden = inner.model(**passed, use_cache=False).last_hidden_state
    logits = inner.get_output_embeddings()(hidden[:, :-1][chosen])
    total = torch.nn.functional.cross_entropy(logits.float(), targets[chosen], reduction="sum")
    return total / (chosen.sum() if items is None else items)
