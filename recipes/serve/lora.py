"""A PEFT adapter as a LoRA file for llama.cpp, written without torch.

The format is that of llama.cpp's ``convert_lora_to_gguf.py``: ``<tensor>.lora_a`` (rank x in) and
``<tensor>.lora_b`` (out x rank), ``adapter.type`` and ``adapter.lora.alpha``.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, Refused
from engine.models import ModelLocation, read_json
from engine.paths import StatePaths
from recipes.serve.kinship import require_kin

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_LAYER = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$"
)
#: Keys of ``adapter_config.json`` whose use has no counterpart in llama.cpp.
_UNSUPPORTED = ("use_dora", "alora_invocation_tokens", "lora_bias")


def lora_gguf(adapter: ModelLocation, base: Path, paths: StatePaths) -> Path:
    """Write ``adapter`` for llama.cpp, once; returns the file.

    Args:
        adapter: a PEFT LoRA adapter.
        base: the GGUF it goes on: shapes are compared with it.
        paths: the state directory.

    Raises:
        Refused: it is no plain LoRA, or was trained on another base.
        BadInput: its files are damaged.
    """
    config = read_json(adapter.path / "adapter_config.json")
    refuse_others(adapter, config)
    weights = adapter.path / "adapter_model.safetensors"
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update((adapter.path / "adapter_config.json").read_bytes())
    digest.update(str(base).encode())
    require_kin(adapter, base)
    target = paths.cache / "gguf" / f"lora-{digest.hexdigest()[:24]}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(adapter, config, weights, base, target)
    return target


def refuse_others(adapter: ModelLocation, config: dict[str, Any]) -> None:
    """Refuse an adapter that llama.cpp can't apply.

    Raises:
        Refused: it is no plain LoRA, with what it uses beyond one.
    """
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise Refused(
            f"{adapter.name!r} is a {config.get('peft_type')} adapter",
            why="llama.cpp applies LoRA only",
            hint="merge it into its base (`[output] merge = true`), then serve the merged model",
        )
    used = [key for key in _UNSUPPORTED if config.get(key)]
    used += ["modules_to_save"] if config.get("modules_to_save") else []
    used += ["alpha_pattern"] if config.get("alpha_pattern") else []
    if config.get("rank_pattern") and config.get("use_rslora"):
        used.append("rank_pattern with use_rslora")
    if used:
        raise Refused(
            f"{adapter.name!r} can't be applied by llama.cpp",
            why=f"it uses {', '.join(used)}",
            hint="merge it into its base, then serve the merged model",
        )


def _write(
    adapter: ModelLocation, config: dict[str, Any], weights: Path, base: Path, target: Path
) -> None:
    import gguf

    from recipes.loading.gguf_header import read_gguf_header

    header = read_gguf_header(base)
    arch = str(header.metadata["general.architecture"])
    blocks = int(header.metadata[f"{arch}.block_count"])
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, blocks)
    change = _row_change(arch, header.metadata)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    writer = gguf.GGUFWriter(partial, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", _alpha(config))
    for module, (a, b) in sorted(_pairs(adapter, weights).items()):
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        shape = header.shapes.get(name) if name else None
        if name is None or shape != (b.shape[0], a.shape[1]):
            have = f"{b.shape[0]} x {a.shape[1]}"
            raise Refused(
                f"the adapter {adapter.name!r} does not fit {base.name}",
                why=f"{module} is {have} in the adapter, {_shape(shape)} in the model:"
                " it was trained on another base",
                hint="serve it over the base it names in adapter_config.json",
            )
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", change(module, b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def _shape(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "missing"


def _alpha(config: dict[str, Any]) -> float:
    """llama.cpp scales by alpha / rank; rsLoRA scales by alpha / sqrt(rank)."""
    alpha, rank = float(config.get("lora_alpha", 8)), int(config.get("r", 8))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _row_change(arch: str, metadata: dict[str, Any]) -> Callable[[str, Array], Array]:
    """The reordering of output rows that the base's query and key projections went through."""
    from recipes.gguf.families import permute

    if arch != "llama":
        return lambda _module, b: b
    heads = int(metadata["llama.attention.head_count"])
    kv_heads = int(metadata.get("llama.attention.head_count_kv", heads))

    def change(module: str, b: Array) -> Array:
        if module.endswith(".q_proj"):
            return permute(b, heads)
        return permute(b, kv_heads) if module.endswith(".k_proj") else b

    return change


def _pairs(adapter: ModelLocation, weights: Path) -> dict[str, tuple[Array, Array]]:
    halves: dict[str, dict[str, Array]] = {}
    for name, values in _tensors(weights).items():
        match = _LAYER.match(name)
        if match is None:
            raise Refused(
                f"the adapter {adapter.name!r} holds {name}",
                why="only LoRA factors of linear layers can be applied by llama.cpp",
                hint="merge it into its base, then serve the merged model",
            )
        halves.setdefault(match["module"], {})[match["side"]] = values
    broken = [module for module, sides in halves.items() if len(sides) != 2]
    if broken or not halves:
        raise BadInput(
            f"{weights} is damaged", why=f"half of a factor is missing: {broken or 'all of them'}"
        )
    return {module: (sides["A"], sides["B"]) for module, sides in halves.items()}


def _tensors(file: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file as float32."""
    import json

    import numpy as np

    from recipes.gguf.convert import from_bfloat16

    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found: dict[str, Array] = {}
    try:
        header = json.loads(data[8 : 8 + size])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            raw = data[8 + size + begin : 8 + size + end]
            kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[entry["dtype"]]
            values = np.frombuffer(raw, dtype=kind).reshape(entry["shape"])
            values = from_bfloat16(values) if entry["dtype"] == "BF16" else values
            found[name] = values.astype(np.float32)
    except (ValueError, KeyError) as error:
        raise BadInput(f"{file} is damaged", why=str(error)) from error
    return found
