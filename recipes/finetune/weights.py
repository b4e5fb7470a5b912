"""What the files of a model tell without loading it: tensor shapes, module names, chat template."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models import ModelLocation, read_json
from recipes.loading.gguf_header import read_gguf_header

_MAX_HEADER = 100 << 20
#: GGUF's names of a Llama-like model's linear layers, as transformers calls them.
GGUF_MODULES = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}
_HEADS = {"lm_head", "embed_tokens", "wte", "wpe", "embed_out", "output", "token_embd"}


def tensor_shapes(location: ModelLocation) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the whole model, by name, from the files' headers."""
    root = location.root
    if root.kind == "gguf":
        return read_gguf_header(root.path).shapes
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(root.path.glob("*.safetensors")):
        header = safetensors_header(file)
        shapes |= {
            name: tuple(facts["shape"]) for name, facts in header.items() if name != "__metadata__"
        }
    return shapes


def safetensors_header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file.

    Raises:
        BadInput: the file is damaged.
    """
    with open(file, "rb") as data:
        start = data.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= _MAX_HEADER:
            raise BadInput(f"{file} is no safetensors file", why="its header is damaged")
        try:
            value: dict[str, Any] = json.loads(data.read(size))
        except ValueError as error:
            raise BadInput(f"{file} is no safetensors file", why=str(error)) from error
    return value


def linear_names(location: ModelLocation) -> set[str]:
    """Names of the linear modules that can get an adapter (last part of the name)."""
    names = set()
    for name, shape in tensor_shapes(location).items():
        if len(shape) != 2 or not name.endswith(".weight"):
            continue
        module = name.removesuffix(".weight").rpartition(".")[2]
        module = GGUF_MODULES.get(module, module)
        if module not in _HEADS:
            names.add(module)
    return names


def has_chat_template(location: ModelLocation) -> bool:
    """Whether the tokenizer has a chat template."""
    folders = []
    here: ModelLocation | None = location
    while here is not None:
        folders.append(here.path)
        here = here.base
    if location.root.kind == "gguf":
        return "tokenizer.chat_template" in read_gguf_header(location.root.path).metadata
    for folder in folders:
        if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
            return True
        config = folder / "tokenizer_config.json"
        if config.is_file() and read_json(config).get("chat_template"):
            return True
    return False
