"""Do the source's weights already lie on a quantization grid? Then one format looks free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engine.models import ModelLocation
    from engine.paths import StatePaths

#: ggml's small blocks hold this many values with a shared scale.
_BLOCK = 32
#: Blocks looked at; one with more than 2^bits distinct values settles it.
_SAMPLE = 256


def grid_note(location: ModelLocation, paths: StatePaths) -> str:
    """A sentence for the report where the root model was dequantized from a GGUF, else nothing."""
    from recipes.loading import ensure_base

    root = location.root
    kind = _gguf_type(root.path) if root.kind == "gguf" else ""
    bits = grid_bits(ensure_base(root, paths))
    if not kind and bits is None:
        return ""
    grid = f"the {kind} grid" if kind else f"a {bits}-bit grid"
    likely = kind or {4: "Q4_0 or Q4_1", 5: "Q5_0 or Q5_1", 8: "Q8_0"}.get(
        bits or 0, "the same type"
    )
    return (
        f"the weights of {root.name} lie on {grid}: quantizing back to {likely} looks nearly free "
        "and is no measure of quality; compare the other levels"
    )


def grid_bits(folder: Path) -> int | None:
    """Bits of the grid the largest matrix lies on (at most 5), or None.

    Stored in bfloat16, a block of 32 values from a 4-bit file has at most 16 distinct ones.
    """
    import numpy as np

    from recipes.gguf.checkpoint import open_checkpoint

    tensors = open_checkpoint(folder).tensors.values()
    matrices = [t for t in tensors if len(t.shape) == 2 and t.shape[1] % _BLOCK == 0]
    inner = [t for t in matrices if "embed" not in t.name and "lm_head" not in t.name]
    if not inner:
        return None
    largest = max(inner, key=lambda t: t.elements)
    blocks = np.asarray(largest.raw()).reshape(-1, _BLOCK)
    step = max(len(blocks) // _SAMPLE, 1)
    distinct = max(len(np.unique(block)) for block in blocks[::step][:_SAMPLE])
    for bits in (1, 2, 3, 4):
        if distinct <= 2**bits:
            return bits
    return None


def _gguf_type(path: Path) -> str:
    import gguf

    field = gguf.GGUFReader(path).get_field("general.file_type")
    if field is None:
        return "GGUF"
    try:
        name = gguf.LlamaFileType(int(field.contents())).name
    except ValueError:
        return "GGUF"
    return str(name.removeprefix("MOSTLY_").removeprefix("ALL_"))
