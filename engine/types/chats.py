"""Rows of data that a conversation leaves: what supervised and preference recipes train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import BadInput
from engine.types.serving import ChatMessage


@dataclass(frozen=True)
class KeptRows:
    """Rows that were kept for a dataset and are in no version of it yet."""

    dataset: str
    rows: int


def conversation_row(turns: Sequence[ChatMessage]) -> dict[str, Any]:
    """``{"messages": [...]}``: a whole conversation, as chat data is written.

    Raises:
        BadInput: it does not end with an answer.
    """
    if not turns or turns[-1].role != "assistant":
        raise BadInput("there is no answer to keep", hint="ask something, and wait for its end")
    return {"messages": [turn.to_json() for turn in turns]}


def preference_row(better: Sequence[ChatMessage], worse: Sequence[ChatMessage]) -> dict[str, Any]:
    """``{"prompt": [...], "chosen": [...], "rejected": [...]}`` for the last question of both.

    Args:
        better: the conversation whose last answer was preferred; its turns are the prompt.
        worse: the other one; only its last answer is taken.

    Raises:
        BadInput: one has no answer, or both answered the same.
    """
    for turns in (better, worse):
        if not turns or turns[-1].role != "assistant":
            raise BadInput(
                "a preference needs two answers", hint="choose two models and ask both something"
            )
    if better[-1].content.strip() == worse[-1].content.strip():
        raise BadInput(
            "both answers are the same: nothing to prefer, not kept",
            hint="ask again with a higher temperature",
        )
    return {
        "prompt": [turn.to_json() for turn in better[:-1]],
        "chosen": [better[-1].to_json()],
        "rejected": [worse[-1].to_json()],
    }
