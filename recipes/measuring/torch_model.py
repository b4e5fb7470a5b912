"""A loaded Hugging Face model as something that can be measured: logits, greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class TorchScorer:
    """Wraps a causal language model.

    Args:
        model: in evaluation mode, on its device.
        n_vocab: entries of a row of logits; the output matrix's rows by default.
    """

    def __init__(self, model: Any, n_vocab: int | None = None) -> None:
        self.model = model
        self.prompt_seconds = 0.0
        if n_vocab is None:
            n_vocab = int(model.config.get_text_config().vocab_size)
        self.n_vocab = n_vocab

    def logits(self, tokens: Sequence[int]) -> Array:
        """``(len(tokens), n_vocab)`` float32 on the CPU."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self.model.device)
            out = self.model(ids, use_cache=False).logits[0]
        values: Array = out.float().cpu().numpy()
        return values

    def forward(self, tokens: Sequence[int]) -> None:
        """Run the layers for their hooks; logits of the last position only."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self.model.device)
            self.model(ids, use_cache=False, logits_to_keep=1)

    def generate(self, prompt: Sequence[int], count: int, stops: Sequence[int]) -> list[int]:
        """Up to ``count`` tokens chosen greedily after ``prompt``; ends after one of ``stops``."""
        import time

        import torch

        chosen: list[int] = []
        cache = None
        ids = torch.tensor([list(prompt)], device=self.model.device)
        began = time.perf_counter()
        with torch.inference_mode():
            while len(chosen) < count:
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                chosen.append(int(out.logits[0, -1].argmax()))
                if len(chosen) == 1:
                    self.prompt_seconds = time.perf_counter() - began
                if chosen[-1] in stops:
                    break
                ids = torch.tensor([chosen[-1:]], device=self.model.device)
        return chosen

    def close(self) -> None:
        """Drop the weights."""
        import gc

        self.model = None
        gc.collect()
