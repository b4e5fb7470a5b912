"""A cross-encoder that reads question and chunk together: slower, optional, for the best few."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound
from engine.types.rag import Hit

_BATCH = 8
_MAX_TOKENS = 512


@lru_cache(maxsize=1)
def _load(folder: str, device: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise BadInput(
            f"the cross-encoder in {folder} can't be loaded", why=str(error).splitlines()[0]
        ) from error
    if missing := sorted(told["missing_keys"]):
        # transformers made them up
        raise BadInput(
            f"the cross-encoder in {folder} is not whole", why=f"missing: {', '.join(missing[:5])}"
        )
    return tokenizer, model.eval().to(device)


def check_folder(folder: str) -> None:
    """See, without loading anything, that a folder can hold a cross-encoder.

    Raises:
        NotFound: there is no model.
        BadInput: it is a model of another kind, or scores more than one class.
    """
    file = Path(folder).expanduser() / "config.json"
    hint = "give the folder of a sequence classification model with one output"
    if not file.is_file():
        why = "config.json is missing" if file.parent.is_dir() else "there is no such folder"
        raise NotFound(f"there is no cross-encoder in {folder}", why=why, hint=hint)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is not JSON", why=str(error)) from error
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        # transformers would put a random head on it and say nothing
        raise BadInput(
            f"{folder} holds no cross-encoder",
            why=f"it is {', '.join(kinds) or 'unnamed'}",
            hint=hint,
        )
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    if int(labels) != 1:
        raise BadInput(
            f"{folder} holds no cross-encoder", why=f"it scores {labels} classes", hint=hint
        )


def rerank(query: str, hits: Sequence[Hit], folder: str, device: str) -> list[Hit]:
    """The hits by the cross-encoder's score, best first.

    Args:
        query: the question.
        hits: candidates.
        folder: a sequence classification model with one output, in the Hugging Face layout.
        device: ``cpu`` or ``cuda``.

    Raises:
        NotFound: no model in the folder.
        BadInput: a model of another kind, or one that can't be loaded.
    """
    check_folder(folder)
    import torch

    tokenizer, model = _load(str(Path(folder).expanduser().absolute()), device)
    longest = min(_MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", _MAX_TOKENS)))
    scores: list[float] = []
    for begin in range(0, len(hits), _BATCH):
        texts = [f"{h.headings}\n{h.text}" for h in hits[begin : begin + _BATCH]]
        inputs = tokenizer(
            [query] * len(texts), texts, truncation="longest_first", max_length=longest,
            padding=True, return_tensors="pt",
        ).to(device)  # fmt: skip
        with torch.inference_mode():
            logits = model(**inputs).logits.float()
        scores.extend(float(row[0]) for row in logits)
    order = sorted(range(len(hits)), key=lambda i: -scores[i])
    return [dataclasses.replace(hits[i], rerank=scores[i]) for i in order]
