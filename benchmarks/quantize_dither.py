"""A copy of the packaged 135M model whose weights lie on no quantization grid.

It is packaged as Q4_1: what rounds to that grid again looks nearly free. Every value of a block
that lies on a 4-bit grid is moved by a uniform random part of half a step at most. So the copy is
a model whose Q4_1 file would be the packaged one, and no format has an advantage on it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.models import resolve_model
from engine.paths import StatePaths

_BLOCK, _LEVELS = 32, 16


def dithered(home: Path, seed: int = 0) -> Path:
    """The folder of the dithered model under ``home``, made on the first call.

    Args:
        home: where the model folder, and the packaged model's cache, are kept.
        seed: of the noise.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from recipes.loading import ensure_base

    folder = home / "dithered"
    if folder.is_dir():
        return folder
    paths = StatePaths(home).ensure()
    source = ensure_base(resolve_model("smollm2-135m-instruct", paths), paths)
    partial = home / "dithered.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("*.safetensors"))
    noise = torch.Generator().manual_seed(seed)
    for file in source.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and tensor.shape[1] % _BLOCK == 0:
                tensors[name] = _moved(tensor, noise)
        save_file(tensors, partial / file.name, {"format": "pt"})
    partial.rename(folder)
    return folder


def _moved(tensor, noise):  # type: ignore[no-untyped-def]
    """``tensor`` (rows, columns) with its gridded blocks moved off their grid."""
    import torch

    blocks = tensor.float().reshape(-1, _BLOCK)
    ordered = blocks.sort(dim=1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    # a block of Q4_1 is min + d x 0..15, so d is a fifteenth of its range
    step = (ordered[:, -1:] - ordered[:, :1]) / (_LEVELS - 1)
    step = torch.where(distinct[:, None] <= _LEVELS, step, torch.zeros_like(step))
    shift = torch.rand(blocks.shape, generator=noise) - 0.5
    return (blocks + shift * step).reshape(tensor.shape).to(tensor.dtype)
