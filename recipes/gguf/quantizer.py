"""GGUF -> smaller GGUF by ``llama_model_quantize``: any type, importance, overrides, exact sizes.

The native call can't be interrupted: it runs in a thread that is left behind when the step is
asked to stop (the process ends soon after, and the half-written file never gets its real name).
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, OutOfSpace, StepFailed
from recipes.gguf.levels import Level, tensor_type
from recipes.gguf.runtime import clear_log, library, log_lines, log_reason, tensor_types

if TYPE_CHECKING:
    import numpy as np

    Importance = Mapping[str, np.ndarray[Any, Any]]

#: a tensor's line in llama.cpp's log: number, count, name, shape, source type
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)\s+- \[([\d, ]+)\], type =\s*(\S+?),")
_RESULT = re.compile(r"->\s*[\d.]+ MiB \((\S+)\)")
_FALLBACK = re.compile(
    r"warning:\s+(\S+)\s+- ncols\s+(\d+) not divisible by\s+(\d+) \(required for type\s+(\S+?)\)"
    r".*falling back to\s+(\S+)"
)

#: GGUF aligns every tensor to this many bytes.
ALIGNMENT = 32


@dataclass(frozen=True)
class SizePlan:
    """What a quantization would make, before it is done."""

    level: str
    bytes: int
    """Size of the whole file."""
    bits_per_weight: float
    types: Mapping[str, str]
    """Tensor name -> type it will have."""
    fallbacks: tuple[str, ...]
    """Tensors whose columns do not fit the level's blocks, with the type they get instead."""


@dataclass(frozen=True)
class Settings:
    """How to quantize."""

    level: Level
    threads: int
    importance: Importance | None = None
    overrides: Mapping[str, str] | None = None
    """Regular expression over tensor names -> tensor type; the first match wins."""
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    requantize: bool = False


def plan_size(source: Path, settings: Settings) -> SizePlan:
    """The exact size of ``source`` at this level, without doing the work.

    Raises:
        BadInput: the source can't be read, or the types don't apply to it.
    """
    lines = _native(source, source.with_suffix(".dry"), settings, dry_run=True)
    types = _types(lines)
    total = _header_bytes(source)
    weights = 0
    for tensor, elements in _elements(lines).items():
        _, block, size = tensor_types()[types[tensor]]
        total += -(-(elements // block * size) // ALIGNMENT) * ALIGNMENT
        weights += elements
    bits = 8 * total / max(weights, 1)
    return SizePlan(settings.level.name, total, bits, types, _fallbacks(lines))


def quantize(
    source: Path,
    destination: Path,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[str, ...]:
    """Write ``source`` at the wanted level to ``destination``, which appears only when complete.

    Returns:
        notes: tensors that fell back to another type.

    Raises:
        InterruptedError: ``should_stop`` became true.
        BadInput: llama.cpp refused, with its reason.
        OutOfSpace: the disk was full.
    """
    partial = destination.with_name(destination.name + ".partial")
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(_native(source, partial, settings, dry_run=False))
        except (BadInput, OutOfSpace, StepFailed) as error:
            result.append(error)

    thread = threading.Thread(target=work, name="quantize", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if should_stop():
            partial.unlink(missing_ok=True)
            raise InterruptedError("quantization was asked to stop")
        _tell(progress)
    if not result or isinstance(result[0], BaseException):
        partial.unlink(missing_ok=True)
        raise result[0] if result else StepFailed("the quantization thread ended without a result")
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(partial, destination)
    return _fallbacks(result[0])


def _tell(progress: Callable[[int, int], None]) -> None:
    for line in reversed(log_lines("/")):
        if match := _TENSOR.search(line):
            progress(int(match.group(1)), int(match.group(2)))
            return


def _native(source: Path, target: Path, settings: Settings, *, dry_run: bool) -> list[str]:
    native = library()
    params = native.llama_model_quantize_default_params()
    params.ftype = settings.level.number
    params.nthread = max(settings.threads, 1)
    params.dry_run = dry_run
    params.pure = settings.pure
    params.allow_requantize = settings.requantize
    if settings.output_type:
        params.output_tensor_type = ggml_type(settings.output_type)
    if settings.embedding_type:
        params.token_embedding_type = ggml_type(settings.embedding_type)
    keep: list[Any] = []
    _add_overrides(native, params, settings.overrides or {}, keep)
    _add_importance(native, params, settings.importance or {}, keep)
    clear_log()
    status = native.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    lines = log_lines()
    if status != 0:
        reason = log_reason("llama.cpp gave no reason")
        if "No space left" in reason or "failed to write" in reason.lower():
            raise OutOfSpace(f"the disk is full while writing {target.name}", why=reason)
        raise BadInput(
            f"llama.cpp could not make {settings.level.name} of {source.name}",
            why=_plain(reason),
            hint="set imatrix = true" if "imatrix" in reason or "importance" in reason else "",
        )
    return lines


def _plain(reason: str) -> str:
    return re.sub(r"[=\s]{4,}", " ", reason).strip()


def ggml_type(name: str) -> int:
    """The number of a tensor type."""
    return tensor_types()[tensor_type(name)][0]


def _add_overrides(native: Any, params: Any, overrides: Mapping[str, str], keep: list[Any]) -> None:
    if not overrides:
        return
    table = (native.llama_model_tensor_override * (len(overrides) + 1))()
    for i, (pattern, name) in enumerate(overrides.items()):
        table[i].pattern = pattern.encode()
        table[i].type = ggml_type(name)
    keep.append(table)
    params.tt_overrides = ctypes.cast(table, type(params.tt_overrides))


def _add_importance(native: Any, params: Any, importance: Importance, keep: list[Any]) -> None:
    import numpy as np

    if not importance:
        return
    table = (native.llama_model_imatrix_data * (len(importance) + 1))()
    for i, (name, values) in enumerate(importance.items()):
        data = np.ascontiguousarray(values, np.float32)
        keep.append(data)
        table[i].name = name.encode()
        table[i].data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        table[i].size = data.size
    keep.append(table)
    params.imatrix = ctypes.cast(table, type(params.imatrix))


def _elements(lines: list[str]) -> dict[str, int]:
    """Tensor -> number of values, in the file's order."""
    found: dict[str, int] = {}
    for line in lines:
        if match := _TENSOR.search(line):
            count = 1
            for size in match.group(4).split(","):
                count *= int(size)
            found[match.group(3)] = count
    return found


def _types(lines: list[str]) -> dict[str, str]:
    """Tensor -> the type a dry run says it will have."""
    types: dict[str, str] = {}
    for line in lines:
        if match := _TENSOR.search(line):
            becomes = _RESULT.search(line)
            types[match.group(3)] = (becomes.group(1) if becomes else match.group(5)).upper()
    return types


def _header_bytes(source: Path) -> int:
    """Bytes before the first tensor: metadata and tensor list keep their size."""
    import gguf

    reader = gguf.GGUFReader(source)
    return int(reader.data_offset)


def _fallbacks(lines: list[str]) -> tuple[str, ...]:
    """One sentence a tensor whose columns do not fit the level's blocks."""
    return tuple(
        f"{m.group(1)}: {m.group(2)} columns are not divisible by {m.group(3)}, "
        f"{m.group(4).upper()} became {m.group(5).upper()}"
        for m in (_FALLBACK.search(line) for line in lines)
        if m
    )
