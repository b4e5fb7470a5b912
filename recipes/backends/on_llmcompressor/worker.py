"""GPTQ, AWQ, W8A8 and FP8 by llm-compressor, saved as compressed-tensors.

Without a GPU its AWQ calls ``pin_memory``, which needs CUDA; pinning is skipped there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, WorkerError, calibration, serve  # type: ignore


def _weights(request: dict[str, Any], *, symmetric: bool) -> dict[str, Any]:
    size = int(request["group_size"])
    return {
        "num_bits": int(request["bits"]),
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if size > 0 else "channel",
        "group_size": size if size > 0 else None,
    }


def _recipe(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    # TOML has no null, and here it is a setting: actorder = "none" keeps the columns' order
    options = {k: None if v == "none" else v for k, v in request["options"].items()}
    plain: dict[str, Any] = {"targets": "Linear", "ignore": ["lm_head"]}
    if request["format"] == "gptq":
        groups = {"group_0": {"targets": ["Linear"], "weights": _weights(request, symmetric=True)}}
        settings = {"ignore": ["lm_head"], "config_groups": groups, **options}
        return [GPTQModifier(**settings)], settings
    if request["format"] == "awq":
        groups = {"group_0": {"targets": ["Linear"], "weights": _weights(request, symmetric=False)}}
        settings = {"ignore": ["lm_head"], "config_groups": groups}
        return [AWQModifier(**options), QuantizationModifier(**settings)], {**settings, **options}
    if request["format"] == "w8a8":
        settings = {**plain, "scheme": "W8A8", **options}
        return [GPTQModifier(**settings)], settings
    if request["format"] == "fp8":
        settings = {**plain, "scheme": "FP8_DYNAMIC", **options}
        return [QuantizationModifier(**settings)], settings
    raise WorkerError(f"llm-compressor does not make {request['format']}")


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` into ``request["output"]``."""
    tell({"phase": "loading llmcompressor"})
    from importlib.metadata import version

    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    if not torch.cuda.is_available():
        torch.Tensor.pin_memory = lambda self, *_a, **_k: self  # type: ignore[method-assign]
    model = AutoModelForCausalLM.from_pretrained(
        request["source"], dtype=torch.bfloat16, local_files_only=True
    )
    recipe, settings = _recipe(request)
    rows = _dataset(request)
    tell({"phase": f"quantizing to {request['format']}"})
    given: dict[str, Any] = {}
    if rows is not None:
        longest = max(len(r["input_ids"]) for r in rows)
        given = {
            "dataset": rows,
            "num_calibration_samples": len(rows),
            "max_seq_length": longest,
            "shuffle_calibration_samples": False,
        }
    oneshot(model=model, recipe=recipe, **given)
    tell({"phase": "saving"})
    model.save_pretrained(request["output"], save_compressed=True)
    names = ("llmcompressor", "compressed-tensors", "transformers", "torch")
    return {"settings": settings, "versions": {name: version(name) for name in names}}


def _dataset(request: dict[str, Any]) -> Any:
    if "calibration" not in request:
        return None
    from datasets import Dataset

    rows = calibration(request)
    return Dataset.from_dict(
        {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
    )


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The compressed model, unpacked as it is used."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, local_files_only=True
    ).eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
