"""HQQ through transformers, which saves it as safetensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, serve  # type: ignore[import-not-found]


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Round ``request["source"]`` as it is loaded, and save it."""
    tell({"phase": "loading hqq"})
    from importlib.metadata import version

    import torch
    from transformers import AutoModelForCausalLM, HqqConfig

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "nbits": request["bits"],
        "group_size": request["group_size"],
        **request["options"],
    }
    tell({"phase": f"rounding to {request['bits']} bits"})
    model = AutoModelForCausalLM.from_pretrained(
        request["source"],
        quantization_config=HqqConfig(**settings),
        dtype=torch.bfloat16,
        device_map=request["device"],
        local_files_only=True,
    )
    tell({"phase": "saving"})
    model.save_pretrained(request["output"])
    return {
        "settings": settings,
        "versions": {name: version(name) for name in ("hqq", "transformers", "torch")},
    }


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The saved model."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map=request["device"], local_files_only=True
    ).eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
