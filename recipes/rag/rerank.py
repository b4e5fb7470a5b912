"""A cross-encoder that reads question and chunk together: slower, optional, for the best few."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import NotFound
from engine.types.rag import Hit

_BATCH = 8
_MAX_TOKENS = 512


@lru_cache(maxsize=1)
def _load(folder: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    return tokenizer, model.eval().to(device)


def rerank(query: str, hits: Sequence[Hit], folder: str, device: str) -> list[Hit]:
    """The hits by the cross-encoder's score, best first.

    Args:
        query: the question.
        hits: candidates.
        folder: a sequence classification model with one output, in the Hugging Face layout.
        device: ``cpu`` or ``cuda``.

    Raises:
        NotFound: no model in the folder.
    """
    if not (Path(folder) / "config.json").is_file():
        raise NotFound(
            f"there is no cross-encoder in {folder}",
            why="config.json is missing",
            hint="give the folder of a sequence classification model, or leave reranker empty",
        )
    import torch

    tokenizer, model = _load(folder, device)
    scores: list[float] = []
    for begin in range(0, len(hits), _BATCH):
        texts = [f"{h.headings}\n{h.text}" for h in hits[begin : begin + _BATCH]]
        inputs = tokenizer(
            [query] * len(texts), texts, truncation="only_second", max_length=_MAX_TOKENS,
            padding=True, return_tensors="pt",
        ).to(device)  # fmt: skip
        with torch.inference_mode():
            logits = model(**inputs).logits.float()
        scores.extend(float(row[-1]) for row in logits)
    order = sorted(range(len(hits)), key=lambda i: -scores[i])
    return [dataclasses.replace(hits[i], rerank=scores[i]) for i in order]
