"""What a ``quantize`` step needs, from sizes alone: no torch, no llama.cpp."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelOpsError
from engine.models import ModelLocation, resolve_model
from engine.types.system import Estimate, EstimateContext
from recipes.gguf.levels import LEVELS
from recipes.quantize.check import config_of
from recipes.quantize.memory import backend_memory
from recipes.quantize.schema import QuantizeSpec

#: Python, torch, transformers and llama.cpp loaded, no model yet (measured resident size).
_LIBRARIES = 620 << 20
#: CPU-seconds per billion weights and token of one forward pass, on two threads (measured).
_SECONDS_PER_TOKEN = 0.09
#: A packaged GGUF of 4 to 5 bits a weight, unpacked.
_GGUF_BITS = 5.5


def estimate(spec: QuantizeSpec, context: EstimateContext) -> Estimate:
    """Peak memory, disk and a rough time.

    The peak is the source in full precision with one window's logits, or a level with its context:
    whichever is larger. Where the model is not known yet only the constants are told.
    """
    try:
        weights = parameters(resolve_model(spec.model, context.paths))
    except ModelOpsError:
        weights = 0
    vocabulary = 50_000 if weights < 1_000_000_000 else 130_000
    logits = 3 * spec.eval.window * vocabulary * 4
    width = 4 if context.device in ("cpu", "auto") else 2
    parts = {"libraries": _LIBRARIES, "source weights": weights * width, "logits": logits}
    if (backend := _backend(spec, context, weights)) and sum(backend.values()) > sum(
        parts.values()
    ):
        parts = backend
    if spec.format == "gguf":
        bits = [LEVELS[name].bits for name in spec.levels]
        levels = sum(int(weights * b / 8) for b in bits)
        disk = 2 * weights + levels + 2 * spec.eval.tokens * vocabulary
        passes = 1 + len(spec.levels)
    else:
        disk = 2 * weights + weights * spec.bits // 8
        passes = 6
    seconds = (
        passes
        * (spec.eval.tokens + spec.eval.neutral_tokens)
        * _SECONDS_PER_TOKEN
        * (weights / 1e9)
    )
    notes = () if weights else ("the model is not there yet: its weights are not counted",)
    return Estimate(sum(parts.values()), disk, seconds or None, parts, notes)


def _backend(spec: QuantizeSpec, context: EstimateContext, weights: int) -> dict[str, int]:
    """The parts of an isolated backend's peak; empty where nothing can be told yet."""
    if spec.format == "gguf" or not weights:
        return {}
    root = resolve_model(spec.model, context.paths).root
    config = config_of(root.path) if root.kind == "hf" else {}
    return backend_memory(spec, config, 2 * weights)


def parameters(location: ModelLocation) -> int:
    """Number of weights, from file sizes (16-bit safetensors; GGUF by its usual bits)."""
    root = location.root
    if root.kind == "gguf":
        return int(root.path.stat().st_size * 8 / _GGUF_BITS)
    return sum(f.stat().st_size for f in Path(root.path).glob("*.safetensors")) // 2
