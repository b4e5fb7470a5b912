"""Hugging Face directory -> GGUF, streamed tensor by tensor; peak memory is one tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Refused
from recipes.gguf.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from recipes.gguf.families import Change, Family, ModelConfig, family_of, read_config
from recipes.gguf.vocabulary import Vocabulary, load_tokenizer, read_vocabulary

if TYPE_CHECKING:
    import gguf
    import numpy as np

    Array = np.ndarray[Any, Any]

#: Values the GGUF type of a file can have here, and the number llama.cpp gives each.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}

#: Largest finite half-precision value; a weight above it can't be kept in F16.
F16_MAX = 65504.0

#: Prefixes of wrappers around the text model, and parts that are not text.
_WRAPPERS = ("model.language_model.", "language_model.model.")
_OTHER_PARTS = (
    "vision_tower.",
    "model.vision_tower.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
)
_SKIPPED_ENDINGS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: Path
    family: str
    dtype: str
    parameters: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
    """One tensor of the new file, before any value is read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: StoredTensor | None
    change: Change | None = None
    shift: float = 0.0
    values: Any = None


def convert(
    source: Path,
    destination: Path,
    *,
    dtype: str = "auto",
    name: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    tokenizer: Any = None,
) -> Conversion:
    """Write ``source`` as an unquantized GGUF at ``destination``.

    The file appears under its name only when it is complete (written beside it, fsynced, renamed).

    Args:
        source: a Hugging Face directory.
        destination: the ``.gguf`` file to make.
        dtype: of the matrices: ``auto`` (BF16 stays BF16, everything else F16), ``F32``, ``F16``,
            ``BF16``. Vectors and norms are always F32.
        name: ``general.name``; the directory's name by default.
        progress: called with bytes written and bytes in all.
        tokenizer: the loaded tokenizer, where the caller has it already.

    Raises:
        Refused: the architecture or the tokenizer has no counterpart in llama.cpp.
        BadInput: files are damaged or a tensor is missing.
    """
    import gguf

    checkpoint = open_checkpoint(source)
    family = family_of(checkpoint.config)
    config = read_config(checkpoint.config)
    notes: list[str] = []
    window = config.get("sliding_window")
    if window is not None and family.arch in _NO_WINDOW and _uses_window(config):
        notes.append(
            f"the source attends to {window} tokens at a time, llama.cpp to all of them for "
            f"{family.title}: answers part beyond {window} tokens of context"
        )
    chosen = _choose(dtype, checkpoint)
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(source)
    vocabulary = read_vocabulary(tokenizer, source, int(config.need("vocab_size")))
    arch = getattr(gguf.MODEL_ARCH, family.arch)
    partial = destination.with_name(destination.name + ".partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[arch])
    try:
        writer.add_type("model")
        writer.add_name(_model_name(name or source.name, vocabulary))
        family.metadata(writer, config)
        extra = family.more(writer, config)
        writer.add_file_type(FILE_TYPES[chosen])
        writer.add_quantization_version(2)
        vocabulary.write(writer)
        planned = list(_plan(checkpoint, family, config, arch, chosen, extra, notes))
        _write(writer, planned, partial, progress)
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise
    writer.close()
    _publish(partial, destination)
    parameters = sum(_count(p.shape) for p in planned)
    return Conversion(destination, family.title, chosen, parameters, tuple(notes))


#: Families whose sliding windows llama.cpp does not compute.
_NO_WINDOW = frozenset({"LLAMA", "QWEN2", "QWEN3", "PHI3"})


def _uses_window(config: ModelConfig) -> bool:
    shorter = int(config.get("sliding_window")) < int(config.need("max_position_embeddings"))
    return shorter and config.get("use_sliding_window") is not False


#: Tokens that llama.cpp looks up by these very names in a model that calls itself Phi-3.
_PHI3_TOKENS = frozenset({"</s>", "<unk>", "<s>", "<|endoftext|>"})


def _model_name(name: str, vocabulary: Vocabulary) -> str:
    """``general.name``: llama.cpp strips white space after Phi-3's special tokens by this name
    alone.

    Without those tokens a file of that name does not even load; with them, and the source
    stripping, it must carry the name.
    """
    called = re.search(r"phi-?3", name, re.IGNORECASE)
    strips = vocabulary.strips_right and set(vocabulary.tokens) >= _PHI3_TOKENS
    if strips:
        return name if called else f"{name} (phi-3)"
    return re.sub(r"(phi)-?(3)", r"\1 \2", name, flags=re.IGNORECASE) if called else name


def _choose(dtype: str, checkpoint: Checkpoint) -> str:
    if dtype != "auto":
        if dtype not in FILE_TYPES:
            raise BadInput(f"{dtype!r} is not a type to convert to", why=", ".join(FILE_TYPES))
        return dtype
    largest = max(checkpoint.tensors.values(), key=lambda t: t.elements, default=None)
    if largest is None:
        raise BadInput(f"{checkpoint.directory} holds no tensors")
    return "BF16" if largest.dtype == "BF16" else "F16"


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _plan(
    checkpoint: Checkpoint,
    family: Family,
    config: ModelConfig,
    arch: Any,
    dtype: str,
    extra: dict[str, Array],
    notes: list[str],
) -> Iterator[Planned]:
    import gguf

    names = gguf.get_tensor_name_map(arch, config.blocks)
    for key, values in extra.items():
        yield Planned(key, values.shape, "F32", None, values=values)
    skipped = 0
    tied = bool(config.get("tie_word_embeddings"))
    seen = set()
    for tensor in sorted(checkpoint.tensors.values(), key=lambda t: (str(t.file), t.offset)):
        plain = _plain_name(tensor.name)
        if plain is None:
            skipped += 1
            continue
        if plain.endswith(_SKIPPED_ENDINGS) or (plain == "lm_head.weight" and tied):
            continue
        target = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise Refused(
                f"tensor {tensor.name} has no counterpart in llama.cpp",
                why=f"the converter maps the tensors of {family.title}",
                hint="is this an adapter, or a model with custom code?",
            )
        change = family.change(plain, config)
        shape = (
            tensor.shape[::-1]
            if plain.endswith(".weight") and _turned(change, family, plain)
            else tensor.shape
        )
        seen.add(target)
        yield Planned(
            target, shape, _stored_type(target, shape, dtype), tensor, change, family.shift(plain)
        )
    _require(seen, config, family)
    if skipped:
        notes.append(
            f"{skipped} tensors of the vision part were left out: GGUF holds the text model"
        )


def _turned(change: Change | None, family: Family, name: str) -> bool:
    return change is not None and family.arch == "GPT2" and name.endswith(".weight")


def _plain_name(name: str) -> str | None:
    """The tensor's name in a text-only model; None for parts that are not text."""
    if name.startswith(_OTHER_PARTS):
        return None
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            return "model." + name.removeprefix(wrapper)
    return name.removeprefix("language_model.") if name == "language_model.lm_head.weight" else name


def _stored_type(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """llama.cpp's rule: vectors, norms and positions stay F32."""
    if len(shape) <= 1 or name.endswith("_norm.weight") or name == "position_embd.weight":
        return "F32"
    return dtype if name.endswith(".weight") else "F32"


def _require(seen: set[str], config: ModelConfig, family: Family) -> None:
    """A block that lost its tensors would load as zeros elsewhere: refuse it here."""
    missing = [
        f"blk.{i}" for i in range(config.blocks) if f"blk.{i}.attn_output.weight" not in seen
    ]
    if "token_embd.weight" not in seen:
        missing.insert(0, "token_embd.weight")
    if missing:
        raise BadInput(
            f"the checkpoint is incomplete for {family.title}",
            why=f"tensors are missing: {', '.join(missing[:5])}",
        )


def _write(
    writer: gguf.GGUFWriter,
    planned: list[Planned],
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    import gguf
    import numpy as np

    width = {"F32": 4, "F16": 2, "BF16": 2}
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    for item in planned:
        writer.add_tensor_info(
            item.name,
            item.shape,
            np.dtype(kinds[item.dtype]),
            _count(item.shape) * width[item.dtype],
            raw_dtype=gguf.GGMLQuantizationType[item.dtype],
        )
    writer.write_header_to_file(path=path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(_count(i.shape) * width[i.dtype] for i in planned)
    done = 0
    for item in planned:
        values = _values(item)
        writer.write_tensor_data(values)
        done += values.nbytes
        progress(done, total)
    writer.flush()


def _values(item: Planned) -> Array:
    """The tensor as the file holds it; a new array or a view, C-contiguous."""
    import numpy as np

    if item.source is None:
        fixed: Array = np.ascontiguousarray(item.values, np.float32)
        return fixed
    raw = item.source.raw()
    if item.change is not None:
        raw = item.change(raw)
    stored = item.source.dtype
    values: Array = raw
    if stored != item.dtype or item.shift:
        values = from_bfloat16(raw) if stored == "BF16" else raw.astype(np.float32, copy=False)
        values = _cast(
            item.name, values + np.float32(item.shift) if item.shift else values, item.dtype
        )
    contiguous: Array = np.ascontiguousarray(values)
    return contiguous


def _cast(name: str, values: Array, dtype: str) -> Array:
    import numpy as np

    if dtype == "BF16":
        return to_bfloat16(np.ascontiguousarray(values))
    if dtype == "F16":
        largest = float(np.abs(values).max(initial=0.0))
        if largest > F16_MAX:
            raise Refused(
                f"tensor {name} does not fit into F16",
                why=f"its largest value is {largest:.4g}, F16 ends at {F16_MAX:.0f}",
                hint='set intermediate = "BF16" (or "F32")',
            )
        half: Array = values.astype(np.float16)
        return half
    return values


def from_bfloat16(bits: Array) -> Array:
    """bfloat16 bits (``uint16``) -> F32, exactly."""
    import numpy as np

    wide: Array = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def to_bfloat16(values: Array) -> Array:
    """F32 -> bfloat16 bits (``uint16``), rounded to nearest even, NaN kept quiet."""
    import numpy as np

    bits: Array = values.view(np.uint32)
    quiet = np.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits & 0xFFFF0000) | (64 << 16), bits)
    rounded: Array = (quiet.astype(np.uint64) + (0x7FFF + ((quiet >> 16) & 1))) >> 16
    narrow: Array = rounded.astype(np.uint16)
    return narrow


def _publish(partial: Path, destination: Path) -> None:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, destination)
