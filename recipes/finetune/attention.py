"""Attention that stays within each row of a flat sequence: packing and padding-free batches.

Rows stand one behind the other in one sequence, without padding; ``cu_seq_lens_q`` (the rows'
borders, as transformers names them for flash attention) travels to the attention of every layer.
On the CPU and wherever flash attention is not installed each row is attended to by torch's own
kernel, so that no mask is built and no pair of tokens of different rows is ever multiplied.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from engine.errors import BadInput, MissingPart

NAME = "modelops_rows"


def register() -> str:
    """Make the attention known to transformers; its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, row_attention)
    # batches without borders (evaluation, generation) are masked as for sdpa
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def row_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Causal attention within the rows whose borders are ``cu_seq_lens_q``.

    Shapes are (1, heads, tokens, width) for ``query``, the same with fewer heads for ``key`` and
    ``value``; the result is (1, tokens, heads, width). Without borders it is transformers' sdpa.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    borders = kwargs.pop("cu_seq_lens_q", None)
    if borders is None:
        found: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    ends = borders.tolist() if hasattr(borders, "tolist") else list(borders)
    pieces = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            dropout_p=dropout,
            scale=scaling,
            is_causal=True,
            enable_gqa=query.shape[1] != key.shape[1],
        ).transpose(1, 2)
        for start, end in pairwise(ends)
    ]
    return torch.cat(pieces, dim=1), None


def has_window(config: Any) -> bool:
    """Whether some layer of the model attends to a window only: rows can't be cut out then."""
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return True
    return any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())


def choose_attention(wanted: str, flat: bool, device: str) -> str:
    """Name of the attention implementation for a run.

    Args:
        wanted: ``auto``, ``sdpa`` or ``flash``.
        flat: rows stand one behind the other (packing, padding-free).
        device: ``cpu`` or ``cuda``.

    Raises:
        BadInput: flash attention on a CPU.
        MissingPart: flash attention is not installed.
    """
    if wanted == "flash":
        if device == "cpu":
            raise BadInput(
                "flash attention needs a GPU",
                why="this run is on the CPU",
                hint='leave train.attention at "auto": rows are kept apart there, too',
            )
        from importlib.util import find_spec

        if find_spec("flash_attn") is None:
            raise MissingPart(
                "flash attention is not installed",
                why='train.attention = "flash" asks for the package flash-attn',
                hint='pip install flash-attn, or set train.attention = "auto"',
            )
        return "flash_attention_2"
    return register() if flat else "sdpa"
