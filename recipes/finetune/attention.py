"""Attention that stays within each row of a flat sequence: packing and padding-free batches.

Rows stand one behind the other in one sequence, without padding; ``cu_seq_lens_q`` (the rows'
borders, as transformers names them for flash attention) travels to the attention of every layer.
On the CPU and wherever flash attention is not installed each row is attended to by torch's own
kernel, so that no mask is built and no pair of tokens of different rows is ever multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from engine.errors import BadInput, MissingPart

NAME = "modelops_rows"
#: Rows of at most so many tokens are attended to in fp32 on a CPU (see ``_products``).
SHORT_ROW = 512


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
    A piece with an origin in ``shared_by`` attends to that piece, too: to all of it.
    """
    import torch

    borders, origins = kwargs.pop("cu_seq_lens_q", None), kwargs.pop("shared_by", None)
    if borders is None:
        return _padded(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    ends = borders.tolist() if hasattr(borders, "tolist") else list(borders)
    lengths = [end - start for start, end in pairwise(ends)]
    before = [-1] * len(lengths) if origins is None else origins.tolist()
    options = {
        "dropout_p": dropout,
        "scale": scaling,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    attend = torch.nn.functional.scaled_dot_product_attention
    with _products(query, max(lengths)) as wanted:
        # split, not slices: its backward pass is one concatenation, that of a slice fills and adds
        # a tensor of the whole sequence for every row
        queries, keys, values = (x.to(wanted).split(lengths, dim=2) for x in (query, key, value))
        pieces = []
        for i, origin in enumerate(before):
            if origin < 0:
                piece = attend(queries[i], keys[i], values[i], is_causal=True, **options)
            else:
                k = torch.cat((keys[origin], keys[i]), dim=2)
                v = torch.cat((values[origin], values[i]), dim=2)
                shape = (lengths[i], lengths[origin] + lengths[i])
                # all of the beginning, and of its own tokens those up to itself
                mask = torch.ones(shape, dtype=torch.bool, device=k.device).tril(lengths[origin])
                piece = attend(queries[i], k, v, attn_mask=mask, **options)
            pieces.append(piece.transpose(1, 2))
        return torch.cat(pieces, dim=1).to(query.dtype), None


def _padded(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    scaling: float | None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """The sdpa of transformers, its products in the faster type."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask is not None:
        # as transformers made it, in the type of the queries
        found: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    with _products(query, query.shape[2]) as wanted:
        out, _ = sdpa_attention_forward(
            module,
            *(x.to(wanted) for x in (query, key, value)),
            None,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
    return out.to(query.dtype), None


@contextmanager
def _products(query: Any, length: int) -> Iterator[Any]:
    """Type of attention's products; inside, autocast leaves them in it.

    torch's CPU kernel takes 1.2 (rows of 256) to 2.6 times (rows of 80) as long in bf16 as in fp32
    for a forward and a backward pass, nearly all of it in the backward one; in long rows bf16 wins.
    """
    import torch

    computed = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        computed = torch.get_autocast_dtype(query.device.type)
    slow = query.device.type == "cpu" and computed == torch.bfloat16
    if not slow or length > SHORT_ROW or not query.requires_grad:
        yield query.dtype
        return
    with torch.autocast("cpu", enabled=False):
        yield torch.float32


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
    return register() if flat or device == "cpu" else "sdpa"
