"""Whether an adapter belongs to a GGUF: shapes agree between strangers, embeddings don't.

A quantized model keeps its token embeddings up to rounding (a cosine above 0.9 even at 2 bits), and
two models trained apart have unrelated ones (a cosine near 0). Fine-tuned relatives of one model
agree: an adapter may go on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Refused
from engine.models import ModelLocation
from recipes.loading.gguf_header import read_gguf_header

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: Rows of the embeddings that are compared, spread over the vocabulary.
_ROWS = 64
#: Cosine under which two models are strangers.
_SAME = 0.7
_EMBEDDINGS = "token_embd.weight"
#: What the embeddings are called in Hugging Face checkpoints (the text model's).
_NAMES = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "word_embeddings.weight")


def require_kin(adapter: ModelLocation, model: Path) -> None:
    """Refuse an adapter whose base is another model than the GGUF it would go on.

    A base whose embeddings can't be found under a known name is left to the comparison of shapes.

    Args:
        adapter: a PEFT adapter with its base.
        model: the GGUF.

    Raises:
        Refused: the two are strangers.
        BadInput: a file is damaged.
    """
    import numpy as np

    if adapter.base is None or adapter.base.path == model:
        return
    shape = read_gguf_header(model).shapes.get(_EMBEDDINGS)
    theirs = _shape(adapter.base.root)
    if shape is None or theirs is None:
        return
    if shape != theirs:
        raise _stranger(adapter, model, f"embeddings of {_text(theirs)} there, {_text(shape)} here")
    rows = np.unique(np.linspace(0, shape[0] - 1, _ROWS).astype(int))
    one, two = _gguf_rows(model, rows), _rows(adapter.base.root, rows)
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    cosine = float(np.sum(one * two)) / size if size else 0.0
    if not cosine >= _SAME:
        raise _stranger(
            adapter, model, f"their embeddings agree to {cosine:.2f}, not above {_SAME}"
        )


def _stranger(adapter: ModelLocation, model: Path, why: str) -> Refused:
    base = adapter.base.name if adapter.base is not None else "another model"
    return Refused(
        f"the adapter {adapter.name!r} was trained on {base!r}, not on {model.name}",
        why=why,
        hint="serve it over its own base",
    )


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shape(base: ModelLocation) -> tuple[int, ...] | None:
    if base.kind == "gguf":
        return read_gguf_header(base.path).shapes.get(_EMBEDDINGS)
    tensor = _tensor(base)
    return tuple(tensor.shape) if tensor is not None else None


def _rows(base: ModelLocation, rows: Array) -> Array:
    """Rows of a base's embeddings as float32."""
    import numpy as np

    from recipes.gguf.convert import from_bfloat16

    if base.kind == "gguf":
        return _gguf_rows(base.path, rows)
    tensor = _tensor(base)
    raw = tensor.raw()[rows]
    values: Array = from_bfloat16(raw) if tensor.dtype == "BF16" else raw.astype(np.float32)
    return values


def _tensor(base: ModelLocation) -> Any:
    from recipes.gguf.checkpoint import open_checkpoint

    try:
        tensors = open_checkpoint(base.path).tensors
    except BadInput:
        # packed (GPTQ, AWQ): not comparable row by row, shapes decide when the two are put together
        return None
    return next((t for name, t in tensors.items() if name.endswith(_NAMES)), None)


def _gguf_rows(model: Path, rows: Array) -> Array:
    """Rows of a GGUF's embeddings as float32, whatever they are stored as."""
    import numpy as np
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    header = read_gguf_header(model)
    count, columns = header.shapes[_EMBEDDINGS]
    number, begin = header.places[_EMBEDDINGS]
    try:
        kind = GGMLQuantizationType(number)
        block, size = GGML_QUANT_SIZES[kind]
        width = columns // block * size
        data = np.memmap(model, np.uint8, "r", begin, (count, width))
        values: Array = dequantize(np.ascontiguousarray(data[rows]), kind).astype(np.float32)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise BadInput(f"the embeddings of {model} can't be read", why=str(error)) from error
    return values.reshape(len(rows), columns)
