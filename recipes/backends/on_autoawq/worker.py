"""AWQ by AutoAWQ 0.2.9 (no longer maintained), corrected.

It keeps the original weights with ``.cpu()`` while it tries scales; on a CPU that is no copy,
every trial damages the weights, and the result has a perplexity of hundreds of thousands. The
quantizer used here clones.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from legacy import legacy_folder  # type: ignore[import-not-found]
from protocol import Tell, WorkerError, calibration, serve  # type: ignore


def _quantizer() -> Any:
    from awq.quantize.quantizer import AwqQuantizer

    class CloningQuantizer(AwqQuantizer):  # type: ignore[misc]
        """Hands out copies of the weights that are restored after every trial."""

        def _compute_best_scale(
            self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any, **more: Any
        ) -> Any:
            plain = module2inspect.state_dict
            module2inspect.state_dict = lambda *a, **k: {
                name: value.clone() for name, value in plain(*a, **k).items()
            }
            try:
                return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest, **more)
            finally:
                del module2inspect.state_dict

    return CloningQuantizer


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` into ``request["output"]``."""
    if int(request["bits"]) != 4:
        raise WorkerError("AutoAWQ makes 4 bits only", hint='set bits = 4 or backend = "gptqmodel"')
    tell({"phase": "loading autoawq"})
    from importlib.metadata import version

    import torch
    from awq import AutoAWQForCausalLM

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "zero_point": True,
        "q_group_size": request["group_size"],
        "w_bit": 4,
        "version": "GEMM",
        **request["options"],
    }
    rows = calibration(request)
    source = legacy_folder(Path(request["source"]))
    try:
        model = AutoAWQForCausalLM.from_pretrained(
            str(source), safetensors=True, device_map=request["device"], low_cpu_mem_usage=True
        )
        tell({"phase": f"searching scales with {len(rows)} calibration windows"})
        model.quantize(
            None,
            quant_config=settings,
            calib_data=rows,
            max_calib_samples=len(rows),
            max_calib_seq_len=max(len(r) for r in rows),
            quantizer_cls=_quantizer(),
        )
        tell({"phase": "saving"})
        model.save_quantized(request["output"])
    finally:
        shutil.rmtree(source, ignore_errors=True)
    names = ("autoawq", "transformers", "torch")
    return {"settings": settings, "versions": {name: version(name) for name in names}}


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The quantized model; without a GPU its matrices are unpacked first (AutoAWQ wants IPEX)."""
    import torch
    from awq import AutoAWQForCausalLM

    torch.set_num_threads(int(request["threads"]))
    if request["device"] == "cpu":
        return _unpacked(folder)
    found = AutoAWQForCausalLM.from_quantized(
        str(folder), fuse_layers=False, device_map=request["device"], safetensors=True
    )
    return found.model.eval()


def _unpacked(folder: Path) -> Any:
    import json

    import torch
    from awq.utils.packing_utils import dequantize_gemm
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    group = json.loads((folder / "config.json").read_text())["quantization_config"]["group_size"]
    del config.quantization_config
    state = {}
    for file in folder.glob("*.safetensors"):
        state.update(load_file(file))
    for name in [n for n in state if n.endswith(".qweight")]:
        base = name.removesuffix(".qweight")
        parts = [state.pop(f"{base}.{part}") for part in ("qweight", "qzeros", "scales")]
        state[f"{base}.weight"] = dequantize_gemm(*parts, 4, group).T.contiguous().float()
    model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32)
    missing, unexpected = model.load_state_dict(
        {k: v.float() for k, v in state.items()}, strict=False
    )
    model.tie_weights()
    if unexpected or [n for n in missing if n != "lm_head.weight"]:
        raise WorkerError("the saved model is incomplete", str([*missing, *unexpected][:5]))
    return model.eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
