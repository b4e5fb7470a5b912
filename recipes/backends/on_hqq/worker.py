"""HQQ by its own layers, kept as safetensors: its own file format is a pickle, which we refuse.

transformers 5 can't save HQQ models yet; each quantized layer's packed values, scales, zeros and
settings go into one safetensors file, under the layer's name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "wire"))
from protocol import Tell, serve  # type: ignore[import-not-found]


def _linears(model: Any) -> dict[str, Any]:
    """Every linear layer but the output matrix, by name."""
    import torch

    output = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }


def _replace(model: Any, name: str, layer: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, leaf, layer)


def _dtype(request: dict[str, Any]) -> Any:
    import torch

    return torch.float32 if request["device"] == "cpu" else torch.bfloat16


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` layer by layer into ``request["output"]``."""
    tell({"phase": "loading hqq"})
    import json
    from importlib.metadata import version

    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "nbits": request["bits"],
        "group_size": request["group_size"] if request["group_size"] > 0 else None,
        "axis": 1,
        **request["options"],
    }
    model = AutoModelForCausalLM.from_pretrained(
        request["source"], dtype=_dtype(request), local_files_only=True
    )
    layers = _linears(model)
    tell({"phase": f"rounding {len(layers)} layers to {request['bits']} bits"})
    state: dict[str, Any] = {}
    for number, (name, linear) in enumerate(layers.items(), 1):
        layer = HQQLinear(
            linear,
            BaseQuantizeConfig(**settings),
            compute_dtype=_dtype(request),
            device=request["device"],
        )
        layer.encoded_state_dict = True
        for key, value in layer.state_dict().items():
            if value is not None:
                state[f"{name}.{key}"] = value.detach().cpu().contiguous().clone()
        _replace(model, name, torch.nn.Identity())
        tell({"done": number, "total": len(layers), "unit": "layers"})
    for key, value in model.state_dict().items():
        if not (key == "lm_head.weight" and model.config.tie_word_embeddings):
            state[key] = value.to(torch.bfloat16).contiguous().clone()
    tell({"phase": "saving"})
    output = Path(request["output"])
    output.mkdir(parents=True)
    save_file(state, output / "model.safetensors", {"format": "pt"})
    config = json.loads((Path(request["source"]) / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "hqq", **settings}
    (output / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    names = ("hqq", "transformers", "torch")
    return {"settings": settings, "versions": {name: version(name) for name in names}}


def load(folder: Path, request: dict[str, Any]) -> Any:
    """The model with its HQQ layers put back."""
    import torch
    from hqq.core.quantize import HQQLinear
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(int(request["threads"]))
    state = load_file(folder / "model.safetensors")
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=_dtype(request))
    for name in _linears(model):
        prefix = f"{name}."
        own = {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}
        layer = HQQLinear(
            None, None, compute_dtype=_dtype(request), device=request["device"], initialize=False
        )
        layer.load_state_dict(own)
        _replace(model, name, layer)
    missing, _unexpected = model.load_state_dict(
        {k: v.to(_dtype(request)) for k, v in state.items()}, strict=False
    )
    model.tie_weights()
    lost = [n for n in missing if n.endswith(("norm.weight", "embed_tokens.weight"))]
    if lost:
        raise ValueError(f"the saved model is incomplete: {lost[:5]}")
    return model.eval()


if __name__ == "__main__":
    serve(quantize=quantize, load=load)
