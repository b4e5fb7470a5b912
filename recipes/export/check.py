"""What can be said about an ``export`` step before it is accepted. No torch, no llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.models import ModelLocation, resolve_model
from engine.plugins import extensions
from engine.recipe.check import CheckContext, Problem
from engine.types.system import Estimate, EstimateContext
from recipes.export.schema import TARGETS, ExportSpec
from recipes.gguf.families import family_of

#: quantization methods in ``config.json`` that vLLM 0.32 loads
VLLM_METHODS = {"gptq", "awq", "compressed-tensors", "fp8"}


def check(spec: ExportSpec, context: CheckContext) -> list[Problem]:
    """Every problem that can be seen without loading anything."""
    problems = [*_folder(spec), *_unused(spec)]
    problems += _data(spec, context)
    if context.is_reference(spec.model):
        return problems
    try:
        location = resolve_model(spec.model, context.paths)
    except ModelOpsError as error:
        return [*problems, Problem(("model",), str(error), error.hint)]
    return problems + target_problems(spec, location)


def _unused(spec: ExportSpec) -> list[Problem]:
    default = ExportSpec.model_fields["level"].default
    if spec.target not in ("hf", "vllm", "gguf-adapter") or spec.level == default:
        return []
    what = f"level has no effect with target {spec.target!r}: it is of GGUF files"
    return [Problem(("level",), what, "a quantize step makes smaller weights", "warning")]


def _folder(spec: ExportSpec) -> list[Problem]:
    if spec.to is None:
        return []
    place = Path(spec.to).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        return [Problem(("to",), f"{place} exists already", "name a folder that is not there yet")]
    if not place.absolute().parent.is_dir():
        return [Problem(("to",), f"there is no folder {place.parent}", "make it first")]
    return []


def _data(spec: ExportSpec, context: CheckContext) -> list[Problem]:
    from engine.data.source import resolve_data

    if context.is_reference(spec.data):
        return []
    try:
        resolve_data(spec.data, context.paths)
    except ModelOpsError as error:
        return [Problem(("data",), str(error), error.hint)]
    return []


def target_problems(spec: ExportSpec, location: ModelLocation) -> list[Problem]:
    """Whether the target program can load this model."""
    if spec.target == "gguf-adapter":
        return _adapter_problems(location)
    if spec.target not in TARGETS:
        try:
            extensions("exporter").get(spec.target)
        except ModelOpsError as error:
            return [Problem(("target",), str(error), error.hint)]
    foreign = spec.target not in ("gguf", "ollama")
    if location.kind == "gguf" and foreign and not location.packaged:
        return [
            Problem(
                ("target",),
                f"a GGUF is no source for {spec.target}",
                "export the model it was made from",
            )
        ]
    if location.root.kind != "hf":
        return []
    config = _config(location.root.path)
    quantized = config.get("quantization_config") or {}
    method = str(quantized.get("quant_method", ""))
    if spec.target in ("gguf", "ollama"):
        if method:
            return [
                Problem(
                    ("model",),
                    f"a model quantized with {method} can't become a GGUF",
                    "export the model it was made from",
                )
            ]
        try:
            family_of(config)
        except ModelOpsError as error:
            return [Problem(("model",), str(error), error.hint)]
    if spec.target == "vllm" and method and method not in VLLM_METHODS:
        known = ", ".join(sorted(VLLM_METHODS))
        return [Problem(("model",), f"vLLM does not load {method}", f"it loads {known}")]
    return []


def _adapter_problems(location: ModelLocation) -> list[Problem]:
    from engine.models import read_json
    from recipes.serve.lora import refuse_others

    if location.kind != "adapter" or location.base is None:
        return [
            Problem(
                ("model",),
                f"{location.name} is no adapter",
                'name a LoRA adapter, or set target = "gguf" for a whole model',
            )
        ]
    if location.base.kind == "adapter":
        return [
            Problem(
                ("model",),
                f"{location.name} lies over another adapter",
                "merge that one into its base first, or export the whole as gguf",
            )
        ]
    try:
        refuse_others(location, read_json(location.path / "adapter_config.json"))
    except ModelOpsError as error:
        return [Problem(("model",), f"{error}: {error.why}", 'or set target = "gguf": merged')]
    return []


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def estimate(spec: ExportSpec, context: EstimateContext) -> Estimate:
    """Two copies of the model in memory at most, one on disk."""
    from recipes.quantize.estimate import parameters

    try:
        weights = parameters(resolve_model(spec.model, context.paths))
    except ModelOpsError:
        return Estimate(700 << 20, 0, None, {}, ("the model is not there yet",))
    return Estimate((700 << 20) + 4 * weights, 3 * weights, None, {"weights": 4 * weights})
