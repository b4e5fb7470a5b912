"""NF4 and int8 by bitsandbytes through transformers: weights are rounded as they are loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, serve  # type: ignore[import-not-found]


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Load ``request["source"]`` in the wanted format and save it."""
    tell({"phase": "loading bitsandbytes"})
    import bitsandbytes
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = (
        {"load_in_8bit": True}
        if request["format"] == "bnb-int8"
        else {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
        }
    )
    settings.update(request["options"])
    tell({"phase": f"rounding to {request['format']}"})
    model = AutoModelForCausalLM.from_pretrained(
        request["source"],
        quantization_config=BitsAndBytesConfig(**settings),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    tell({"phase": "saving"})
    model.save_pretrained(request["output"])
    return {
        "settings": settings,
        "versions": {
            "bitsandbytes": bitsandbytes.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The saved model, its format read from its own configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True
    ).eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
