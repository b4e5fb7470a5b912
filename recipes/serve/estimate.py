"""The memory a deployment holds: weights, key-value cache, and the server itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.kinds import load_function
from engine.models import ModelLocation, model_config, resolve_model
from engine.plugins import extensions
from engine.types.system import Estimate, EstimateContext
from recipes.serve.schema import ServeSpec

#: Python with the front, and the server's Python with its web framework (resident, measured).
_FRONT = 60 << 20
_SERVER = 110 << 20
#: Bytes of one cached key or value (half precision).
_CACHE_BYTES = 2


def estimate(spec: ServeSpec, context: EstimateContext) -> Estimate:
    """What a server of this model holds at its peak.

    Raises:
        ModelOpsError: the model can't be found.
    """
    location = resolve_model(spec.model, context.paths)
    weights = weight_bytes(location)
    for ref in spec.adapters.values():
        try:
            weights += weight_bytes(resolve_model(ref, context.paths), alone=True)
        except ModelOpsError:
            continue
    backend = extensions("serving backend").get(spec.backend)
    beside = load_function(backend.memory) if backend.memory else llama_memory
    parts = {"weights": weights, **beside(spec, location, context.device), "front": _FRONT}
    notes = ("a switch to another version needs this twice for a moment",)
    return Estimate(sum(parts.values()), parts=parts, notes=notes)


def llama_memory(spec: ServeSpec, location: ModelLocation, _device: str) -> dict[str, int]:
    """Bytes that the llama.cpp server holds beside the weights."""
    shape = model_shape(location)
    return {
        "key-value cache": 2 * shape["layers"] * shape["kv_width"] * spec.context * _CACHE_BYTES,
        "compute buffers": 4 * shape["vocabulary"] * min(spec.context, 512),
        "server": _SERVER,
    }


def weight_bytes(location: ModelLocation, *, alone: bool = False) -> int:
    """Bytes of the weights; of an adapter with its base unless ``alone``."""
    if location.path.is_file():
        own = location.path.stat().st_size
    else:
        own = sum(file.stat().st_size for file in Path(location.path).glob("*.safetensors"))
    if location.base is None or alone:
        return own
    return own + weight_bytes(location.base)


def model_shape(location: ModelLocation) -> dict[str, int]:
    """Layers, width of the cached keys, and vocabulary of a model."""
    root = location.root
    if root.kind == "gguf":
        from recipes.loading.gguf_header import read_gguf_header

        header = read_gguf_header(root.path)
        arch = str(header.metadata.get("general.architecture", ""))

        def read(key: str, default: Any = 0) -> int:
            return int(header.metadata.get(f"{arch}.{key}", default) or default)

        heads = max(1, read("attention.head_count", 1))
        head = read("attention.key_length") or read("embedding_length") // heads
        kv_heads = read("attention.head_count_kv", heads)
        vocabulary = header.shapes.get("token_embd.weight", (0,))[0]
        layers = read("block_count")
    else:
        config = model_config(location) or {}
        heads = max(1, int(config.get("num_attention_heads") or 1))
        head = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        vocabulary = int(config.get("vocab_size") or 0)
        layers = int(config.get("num_hidden_layers") or 0)
    return {"layers": layers, "kv_width": kv_heads * head, "vocabulary": vocabulary}
