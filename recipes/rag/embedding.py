"""Texts to unit vectors with a sentence-transformers style encoder (mean or CLS pooling).

bf16 where the CPU has the instructions (1.85 times fp32 on AVX512_BF16, cosine to fp32 at least
0.9967), fp16 on a GPU, batches of like length. ``OMP_WAIT_POLICY=passive`` is set by whoever starts
the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from engine.models import ModelLocation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 8


@dataclass(frozen=True)
class Fingerprint:
    """What makes two vectors comparable. Stored with an index and compared before every search.

    LanceDB takes vectors of any model of the same size without a word; we refuse them.
    """

    model: str
    weights_sha256: str
    dimensions: int
    pooling: str
    max_length: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Fingerprint:
        return cls(**value)

    def __str__(self) -> str:
        size = f"{self.dimensions}d, {self.pooling}, {self.max_length} tokens"
        return f"{self.model} ({size}, weights {self.weights_sha256[:12]})"


def fingerprint_of(location: ModelLocation) -> Fingerprint:
    """The fingerprint of an encoder on disk, without loading it.

    Raises:
        BadInput: the folder holds no encoder we can run.
    """
    folder = location.path
    try:
        config = json.loads((folder / "config.json").read_text())
        digest = _weights_sha256(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{location.name} is not an embedding model",
            why=f"it needs config.json and model.safetensors: {error}",
            hint="the packaged one is all-minilm-l6-v2",
        ) from error
    return Fingerprint(
        location.name, digest, int(config["hidden_size"]), _pooling(folder), _max_length(folder)
    )


#: sha256 of weights this process has read, by what tells that a file is still the same one
_KNOWN_WEIGHTS: dict[tuple[str, int, int, int, int, int], str] = {}


def _weights_sha256(weights: Path) -> str:
    """sha256 of the file; read once per process while inode, size and both times stay.

    Hashing 90 MB costs 0.06 CPU-s: a fifth of indexing 5,000 ready vectors, and most of a sync
    that finds nothing to do. The change time can't be set back, so replaced bytes are seen.
    """
    with weights.open("rb") as file:
        stat = os.fstat(file.fileno())
        key = (
            str(weights), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        )  # fmt: skip
        if key not in _KNOWN_WEIGHTS:
            _KNOWN_WEIGHTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _KNOWN_WEIGHTS[key]


def _pooling(folder: Path) -> str:
    settings = folder / "1_Pooling" / "config.json"
    if not settings.exists():
        return "mean"
    value = json.loads(settings.read_text())
    return "cls" if value.get("pooling_mode_cls_token") else "mean"


def _max_length(folder: Path) -> int:
    settings = folder / "sentence_bert_config.json"
    if settings.exists():
        return int(json.loads(settings.read_text()).get("max_seq_length") or 256)
    return 256


class Embedder:
    """An encoder; weights are loaded at the first :meth:`encode`.

    Args:
        location: a folder in the Hugging Face layout (see ``engine.models.resolve_model``).
        device: ``cpu`` or ``cuda``.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    """

    def __init__(self, location: ModelLocation, device: str = "cpu", dtype: str = "auto") -> None:
        self.location = location
        self.device = device
        self.dtype = dtype

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return fingerprint_of(self.location)

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer without truncation and padding: offsets of whole documents."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.location.path / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModel  # 2.3 CPU-s

        from recipes.loading.quiet import quiet_libraries

        kind = getattr(torch, self.dtype) if self.dtype != "auto" else _best_dtype(self.device)
        with quiet_libraries():
            model = AutoModel.from_pretrained(
                str(self.location.path), dtype=kind, local_files_only=True, add_pooling_layer=False
            )
        return model.eval().to(self.device)

    def encode(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Unit vectors, shape (len(texts), dimensions), float32.

        Args:
            texts: over-long ones are cut at the model's length.
            progress: called with the number of texts done.
        """
        import numpy as np
        import torch

        limit = self.fingerprint.max_length
        ids = [self._cut(e.ids, limit) for e in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors: NDArray[np.float32] = np.zeros(
            (len(ids), self.fingerprint.dimensions), dtype=np.float32
        )
        batch = BATCH if self.device == "cpu" else 256
        with torch.inference_mode():
            for begin in range(0, len(order), batch):
                chosen = order[begin : begin + batch]
                vectors[chosen] = self._forward([ids[i] for i in chosen]).numpy()
                if progress is not None:
                    progress(begin + len(chosen))
        return vectors

    @staticmethod
    def _cut(ids: list[int], limit: int) -> list[int]:
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def _forward(self, ids: list[list[int]]) -> Any:
        import torch

        width = max(len(i) for i in ids)
        tokens = torch.zeros((len(ids), width), dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        whole = bool(mask.all())
        hidden = self._model(
            input_ids=tokens, attention_mask=None if whole else mask
        ).last_hidden_state.float()
        if self.fingerprint.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = mask.unsqueeze(-1).float()
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(pooled, dim=1).cpu()


def _best_dtype(device: str) -> Any:
    import torch

    if device != "cpu":
        return torch.float16
    return torch.bfloat16 if cpu_has_bf16() else torch.float32


def cpu_has_bf16() -> bool:
    """True where bf16 matrix products are instructions, not emulation."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
