"""The source model in torch: logits by window, greedy answers, importance by hooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, DoesNotFit

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class TorchModel:
    """A Hugging Face directory loaded for evaluation.

    Args:
        folder: the model.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` (default on a CPU) or ``bfloat16``.
        options: more arguments of ``from_pretrained`` (a quantization configuration).
    """

    def __init__(
        self, folder: Path, *, threads: int, device: str, dtype: str = "float32", **options: Any
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from recipes.loading.quiet import quiet_libraries

        torch.set_num_threads(max(threads, 1))
        self.folder = folder
        self.device = device
        with quiet_libraries():
            try:
                self.model = AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=getattr(torch, dtype),
                    local_files_only=True,
                    trust_remote_code=False,
                    **options,
                )
            except (ValueError, KeyError, OSError) as error:
                raise BadInput(
                    f"{folder} can't be loaded",
                    why=str(error).strip().splitlines()[0],
                ) from error
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise DoesNotFit(f"{folder} does not fit into memory", why=str(error)) from error
        if device != "cpu" and not options:
            self.model = self.model.to(device)
        self.model.eval()
        self.n_vocab = int(self.model.get_output_embeddings().weight.shape[0])

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
        import torch

        chosen: list[int] = []
        cache = None
        ids = torch.tensor([list(prompt)], device=self.model.device)
        with torch.inference_mode():
            while len(chosen) < count:
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                chosen.append(int(out.logits[0, -1].argmax()))
                if chosen[-1] in stops:
                    break
                ids = torch.tensor([chosen[-1:]], device=self.model.device)
        return chosen

    def close(self) -> None:
        """Drop the weights."""
        import gc

        del self.model
        gc.collect()
