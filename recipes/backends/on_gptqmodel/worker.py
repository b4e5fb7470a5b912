"""GPTQ and AWQ by GPTQModel 7.6, with what it needs on a CPU.

AWQ on a CPU must be told ``AWQ_TORCH`` (it picks a CUDA kernel otherwise); its packing threads are
bound to the cores it may use.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, calibration, serve  # type: ignore[import-not-found]


def _backend(request: dict[str, Any]) -> Any:
    from gptqmodel import BACKEND

    if request["device"] == "cpu":
        return BACKEND.AWQ_TORCH if request["format"] == "awq" else BACKEND.TORCH
    return BACKEND.AUTO


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` into ``request["output"]``."""
    # its pools ask for two workers at least
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(int(request["threads"]), 2))
    tell({"phase": "loading gptqmodel"})
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig, __version__

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "bits": request["bits"],
        "group_size": request["group_size"],
        "quant_method": request["format"],
        "format": "gemm" if request["format"] == "awq" else "gptq",
        "device": request["device"],
        **request["options"],
    }
    model = GPTQModel.load(request["source"], QuantizeConfig(**settings))
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration(request)]
    tell({"phase": f"quantizing to {request['format']} with {len(rows)} calibration windows"})
    model.quantize(rows, batch_size=1, backend=_backend(request))
    tell({"phase": "saving"})
    model.save(request["output"])
    settings.pop("device")
    return {
        "settings": settings,
        "versions": {"gptqmodel": __version__, "torch": torch.__version__},
    }


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The quantized model, as transformers' own class behind the wrapper."""
    if request["device"] == "cpu":
        # compiling every layer's unpacking takes longer than it saves in one measurement
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    from gptqmodel import GPTQModel

    found = GPTQModel.load(str(folder), device=request["device"], backend=_backend(request))
    return found.model.eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
