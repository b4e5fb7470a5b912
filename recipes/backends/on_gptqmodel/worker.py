"""GPTQ and AWQ by GPTQModel 7.6, with what it needs on a CPU.

AWQ on a CPU must be told ``AWQ_TORCH`` (it picks a CUDA kernel otherwise); its packing threads are
bound to the cores it may use. With GPTQ finished layers are kept in ``request["scratch"]`` (each
one, or every few where they are small): an interrupted calibration goes on behind the last one and
ends with the same tensors. AWQ begins anew: version 7.6.0 can't read its own checkpoints of AWQ
layers ("tensor schema differs").

Four fifths of its AWQ's time go into the search for clipping bounds, by products of every weight
with every sampled token; here the same errors come from one Gram matrix a group.
"""

from __future__ import annotations

import json
import os
import shutil
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


def _config(settings: dict[str, Any], scratch: Path) -> Any:
    """The library's own configuration; finished layers leave memory for ``scratch``."""
    from gptqmodel import QuantizeConfig

    place = scratch / "layers"
    place.mkdir(parents=True, exist_ok=True)
    return QuantizeConfig(**settings, offload_to_disk=True, offload_to_disk_path=str(place))


#: Bytes of a layer below which not every layer is kept: keeping one costs as much as a tenth of
#: making it does in a model of 135M parameters (9 MB a layer), and a hundredth in one of 3B.
_LARGE_LAYER = 64 << 20
_MOST_LAYERS = 8


def layers_between(source: Path) -> int:
    """How many layers are made between two checkpoints: what a kill costs stays seconds."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers = int(config.get("num_hidden_layers") or 0)
    if layers < 1:
        return 1
    a_layer = sum(file.stat().st_size for file in source.glob("*.safetensors")) // layers
    return max(1, min(_MOST_LAYERS, layers // 4, _LARGE_LAYER // max(a_layer, 1)))


def _checkpoint(request: dict[str, Any], scratch: Path, tell: Tell) -> Any:
    """Where the library keeps what is needed to go on after some layers; None: it can't."""
    from gptqmodel import CheckpointConfig

    if request["format"] != "gptq":
        begun = scratch / "begun"
        if begun.exists():
            tell({"note": "GPTQModel can't go on with an interrupted AWQ: it begins anew"})
        begun.touch()
        return None
    place = scratch / "checkpoint"
    if (place / "CURRENT").exists():
        tell({"note": "an earlier attempt's layers are used again"})
    return CheckpointConfig(
        path=str(place), interval=f"layer:{layers_between(Path(request['source']))}"
    )


def clipping_bounds(processor: Any, w: Any, input_feat: Any, samples: int = 512) -> Any:
    """The bound of each group of weights that costs least in the layer's output.

    The library's own search (``AWQProcessor._compute_best_clip``) by another sum: with ``d`` the
    change of a group's weights and ``X`` its inputs, the mean of ``(X d)^2`` over the tokens is
    ``d' (X'X) d / n``.

    Args:
        processor: the library's, for its rounding.
        w: ``(rows, columns)`` weights.
        input_feat: ``(..., columns)`` calibration inputs.
        samples: tokens looked at, at least.

    Returns:
        ``(rows, groups, 1)`` in the weights' type.
    """
    import torch

    rows, columns = w.shape
    size = processor.qcfg.group_size if processor.qcfg.group_size > 0 else columns
    x = input_feat.reshape(-1, columns)
    x = x[:: max(1, len(x) // samples)].to(w.device).float()
    x = x.reshape(len(x), -1, size).transpose(0, 1)  # groups, tokens, size
    gram = x.transpose(1, 2) @ x / x.shape[1]
    found = []
    # rows at a time: what is alive stays small
    for part in w.reshape(rows, -1, size).split(1024):
        whole = part.abs().amax(dim=-1, keepdim=True)
        best, least = whole.clone(), torch.full(whole.shape, float("inf"), device=w.device)
        rounded = torch.empty_like(part)
        for step in range(10):  # the library's grid: down to half in steps of a twentieth
            bound = whole * (1 - step / 20)
            processor._pseudo_quantize_tensor_into(part.clamp(-bound, bound), rounded)
            change = (rounded.float() - part.float()).transpose(0, 1)  # groups, rows, size
            error = ((change @ gram) * change).sum(-1, keepdim=True).transpose(0, 1)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, bound, best)
        found.append(best)
    return torch.cat(found)


def _search_faster() -> None:
    """Put our search for clipping bounds in the place of the library's."""
    import torch
    from gptqmodel.looper.awq_processor import AWQProcessor

    search = torch.inference_mode()(clipping_bounds)
    AWQProcessor._compute_best_clip = lambda self, w, input_feat, *_a, **_k: search(
        self, w, input_feat
    )


def quantize(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Quantize ``request["source"]`` into ``request["output"]``."""
    # its pools ask for two workers at least
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(int(request["threads"]), 2))
    tell({"phase": "loading gptqmodel"})
    import torch
    from gptqmodel import GPTQModel, __version__
    from gptqmodel.looper.checkpoint_store import CheckpointError

    torch.set_num_threads(int(request["threads"]))
    settings: dict[str, Any] = {
        "bits": request["bits"],
        "group_size": request["group_size"],
        "quant_method": request["format"],
        "format": "gemm" if request["format"] == "awq" else "gptq",
        # its own default is symmetric; AWQ's method (and every other maker of it) has zero points
        "sym": request["format"] != "awq",
        "device": request["device"],
        **request["options"],
    }
    if request["format"] == "awq":
        _search_faster()
    scratch = Path(request["scratch"])
    model = GPTQModel.load(request["source"], _config(settings, scratch))
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration(request)]
    tell({"phase": f"quantizing to {request['format']} with {len(rows)} calibration windows"})
    options = {"batch_size": 1, "backend": _backend(request)}
    checkpoint = _checkpoint(request, scratch, tell)
    try:
        model.quantize(rows, checkpoint=checkpoint, **options)
    except CheckpointError as error:
        # made by other settings, or damaged: what it saves is time, never the result
        tell({"note": f"the earlier attempt's layers are of no use: {error}"})
        shutil.rmtree(scratch)
        model = GPTQModel.load(request["source"], _config(settings, scratch))
        model.quantize(rows, checkpoint=_checkpoint(request, scratch, tell), **options)
    tell({"phase": "saving"})
    model.save(request["output"])
    _forget_paths(Path(request["output"]))
    settings.pop("device")
    return {
        "settings": settings,
        "versions": {"gptqmodel": __version__, "torch": torch.__version__},
    }


def _forget_paths(folder: Path) -> None:
    """Take this machine's scratch folder out of the written configurations."""
    for name in ("config.json", "quantize_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        value = json.loads(file.read_text(encoding="utf-8"))
        own = value.get("quantization_config", value)
        own.get("meta", {}).pop("offload_to_disk_path", None)
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


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
