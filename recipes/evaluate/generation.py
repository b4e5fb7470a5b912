"""Answers to prompts, greedily: the same model gives the same text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from engine.data.formats import Message
from engine.data.masks import render_chat

if TYPE_CHECKING:
    from recipes.loading import Precision

_BATCH = 4


def prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text a model is given: by the chat template, or the last message where there is none."""
    if tokenizer.chat_template:
        return render_chat(tokenizer, list(messages), open_turn=True)
    return str(messages[-1]["content"])


def shown_prompt(messages: Sequence[Message]) -> str:
    """What a person reads as the prompt: the last message."""
    return str(messages[-1]["content"])


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    precision: Precision,
    end_ids: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer each conversation.

    Args:
        model: a causal language model; its training mode is restored afterwards.
        tokenizer: with a padding token.
        prompts: conversations that end before the assistant's turn.
        max_new_tokens: where an answer without end is cut.
        precision: what the products are computed in.
        end_ids: tokens that end an answer (default: the tokenizer's end token).
        progress: called with the number of prompts answered.
    """
    import torch

    device = next(model.parameters()).device
    was_training, had_cache = model.training, model.config.use_cache
    side = tokenizer.padding_side
    model.eval()
    model.config.use_cache = True
    tokenizer.padding_side = "left"
    found: list[str] = []
    autocast = (
        torch.autocast(device.type, dtype=getattr(torch, precision.autocast))
        if precision.autocast
        else nullcontext()
    )
    try:
        with torch.inference_mode(), autocast:
            for start in range(0, len(prompts), _BATCH):
                texts = [prompt_text(tokenizer, p) for p in prompts[start : start + _BATCH]]
                inputs = tokenizer(
                    texts, return_tensors="pt", padding=True, add_special_tokens=False
                ).to(device)
                inputs.pop("token_type_ids", None)
                out = model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    eos_token_id=list(end_ids) or tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
                fresh = out[:, inputs["input_ids"].shape[1] :]
                found.extend(
                    text.strip() for text in tokenizer.batch_decode(fresh, skip_special_tokens=True)
                )
                if progress is not None:
                    progress(len(found))
    finally:
        tokenizer.padding_side = side
        model.config.use_cache = had_cache
        model.train(was_training)
    return found
