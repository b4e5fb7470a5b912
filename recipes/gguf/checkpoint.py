"""A Hugging Face checkpoint on disk, read tensor by tensor without torch.

Only safetensors are read: a ``pytorch_model.bin`` is a pickle and is refused. Tensors come as
memory maps, so that converting never holds more than one of them.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, NotFound, Refused

if TYPE_CHECKING:
    import numpy as np

#: safetensors dtypes a model may be stored in, with the numpy dtype of their raw view
_RAW = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

#: A safetensors header is JSON of at most this many bytes (the format's own limit).
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its dtype (``F32``, ``F16`` or ``BF16``), shape, file and offset."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def elements(self) -> int:
        """Number of values."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def raw(self) -> np.ndarray[Any, Any]:
        """The values as a memory map; BF16 comes as ``uint16``, because numpy has no bfloat16."""
        import numpy as np

        if not self.elements:
            return np.zeros(self.shape, _RAW[self.dtype])
        return np.memmap(self.file, _RAW[self.dtype], "r", self.offset, self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A model directory: its configuration and its tensors by name."""

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """The class name in ``config.json``, such as ``LlamaForCausalLM``."""
        names = self.config.get("architectures") or []
        return str(names[0]) if names else ""

    @property
    def parameters(self) -> int:
        """Number of stored values, tied embeddings counted once."""
        return sum(t.elements for t in self.tensors.values())

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory, or an empty mapping where it does not exist."""
        path = self.directory / name
        if not path.is_file():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}


def open_checkpoint(directory: Path) -> Checkpoint:
    """Read the configuration and the safetensors headers of ``directory``.

    Raises:
        NotFound: there is no ``config.json`` or no weight file.
        Refused: the weights are a pickle.
        BadInput: a file is truncated, damaged, or holds quantized weights.
    """
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise NotFound(
            f"{directory} is not a model directory",
            why="it has no config.json",
            hint="give a Hugging Face directory, a GGUF file or a registry reference",
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{config_file} is not JSON", why=str(error)) from error
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise BadInput(
            f"{directory} is already quantized",
            why=f"its config.json names the method {method}",
            hint="start from the unquantized model",
        )
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(directory):
        tensors.update(_headers(file))
    return Checkpoint(directory, config, tensors)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [n for n in names if not (directory / n).is_file()]
        if missing:
            raise NotFound(
                f"{directory} is incomplete", why=f"weight files are missing: {', '.join(missing)}"
            )
        return [directory / n for n in names]
    files = sorted(directory.glob("*.safetensors"))
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    if files:
        return files
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise Refused(
            f"{directory} holds its weights as a pickle",
            why="a pickle runs code when it is opened",
            hint="save the model again with save_pretrained(safe_serialization=True)",
        )
    raise NotFound(f"{directory} holds no weights", why="no .safetensors file in it")


def _headers(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise BadInput(f"{file} is not a safetensors file", why="its header does not fit")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise BadInput(f"{file} is damaged", why=f"unreadable header: {error}") from error
    base = 8 + length
    found: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if base + end > size:
            raise BadInput(
                f"{file} is truncated",
                why=f"tensor {name} ends at byte {base + end}, the file at {size}",
                hint="copy the file again",
            )
        if entry["dtype"] not in _RAW:
            raise BadInput(
                f"{file} is not a plain model",
                why=f"tensor {name} is stored as {entry['dtype']}, expected F32, F16 or BF16",
            )
        found[name] = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), file, base + begin)
    return found
