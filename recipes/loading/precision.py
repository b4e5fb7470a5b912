"""Which number format a model computes in: bf16 where the device really has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.errors import BadInput


@dataclass(frozen=True)
class Precision:
    """What products are computed in; ``autocast`` is None for fp32. Trained weights are fp32."""

    name: str
    autocast: str | None

    @property
    def compute_dtype(self) -> Any:
        """The ``torch.dtype`` of matrix products, and of weights that are not trained."""
        import torch

        return getattr(torch, self.autocast or "float32")


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them (empty elsewhere)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        return frozenset()
    return frozenset()


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AVX512_BF16 or AMX): 1.5x over fp32 here."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def choose_precision(wanted: str, device: str) -> Precision:
    """The precision for ``auto``, ``fp32``, ``bf16`` or ``fp16`` on ``cpu`` or ``cuda``.

    Raises:
        BadInput: fp16 on a CPU, or bf16 on a GPU that has none.
    """
    if device == "cpu":
        if wanted == "fp16":
            raise BadInput(
                "fp16 can't be trained or evaluated on a CPU",
                why="its range is too small without a GPU's loss scaling",
                hint='set precision = "bf16" or "fp32"',
            )
        bf16 = wanted == "bf16" or (wanted == "auto" and cpu_has_bf16())
        return _BF16_MIXED if bf16 else _FP32
    import torch

    supported = bool(torch.cuda.is_bf16_supported())
    if wanted == "bf16" and not supported:
        raise BadInput(
            "this GPU does not compute in bf16",
            why=f"{torch.cuda.get_device_name()} is older than Ampere",
            hint='set precision = "fp16" or "fp32"',
        )
    if wanted == "fp32":
        return _FP32
    return _BF16_MIXED if supported and wanted != "fp16" else _FP16_MIXED


_FP32 = Precision("fp32", None)
_BF16_MIXED = Precision("bf16", "bfloat16")
_FP16_MIXED = Precision("fp16", "float16")
