"""GPTQ by AutoGPTQ 0.7.1 (no longer maintained), with a shim where there is no GPU.

It names ``cuda:0`` as the device of every layer it works on; without CUDA that name is made the
CPU.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from legacy import legacy_folder  # type: ignore[import-not-found]
from protocol import Tell, WorkerError, calibration, serve  # type: ignore


def _shim() -> None:
    import torch

    if torch.cuda.is_available():
        return
    from auto_gptq.modeling import _base, _const, _utils

    for module in (_base, _const, _utils):
        module.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda *_a, **_k: None


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` into ``request["output"]``."""
    tell({"phase": "loading auto-gptq"})
    from importlib.metadata import version

    import torch
    from auto_gptq import BaseQuantizeConfig
    from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
    from transformers import AutoModelForCausalLM

    _shim()
    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "bits": request["bits"],
        "group_size": request["group_size"],
        "desc_act": False,
        **request["options"],
    }
    rows = calibration(request)
    source = legacy_folder(Path(request["source"]))
    try:
        dtype = torch.float32 if request["device"] == "cpu" else torch.float16
        plain = AutoModelForCausalLM.from_pretrained(str(source), torch_dtype=dtype)
        plain.seqlen = max(len(row) for row in rows)
        # its own from_pretrained refuses to start without CUDA
        kind = GPTQ_CAUSAL_LM_MODEL_MAP.get(plain.config.model_type)
        if kind is None:
            raise WorkerError(
                f"AutoGPTQ does not know {plain.config.model_type}",
                hint='set backend = "gptqmodel"',
            )
        model = kind(plain.eval(), False, BaseQuantizeConfig(**settings))
        tell({"phase": f"quantizing with {len(rows)} calibration windows"})
        examples = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
        model.quantize(examples, batch_size=1, use_triton=False, cache_examples_on_gpu=False)
        tell({"phase": "saving"})
        model.save_quantized(request["output"], use_safetensors=True)
    finally:
        shutil.rmtree(source, ignore_errors=True)
    names = ("auto-gptq", "transformers", "torch")
    return {"settings": settings, "versions": {name: version(name) for name in names}}


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The quantized model on the device."""
    import torch
    from auto_gptq import AutoGPTQForCausalLM

    _shim()
    torch.set_num_threads(int(request["threads"]))
    found = AutoGPTQForCausalLM.from_quantized(
        str(folder),
        device=request["device"],
        use_triton=False,
        use_safetensors=True,
        disable_exllama=True,
        disable_exllamav2=True,
        torch_dtype=torch.float32 if request["device"] == "cpu" else torch.float16,
    )
    return found.model.eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
