"""What can be said about a ``quantize`` step before it is accepted: no torch, no llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.models import ModelLocation, resolve_model
from engine.recipe.check import CheckContext, Problem
from recipes.gguf.families import family_of, read_config
from recipes.quantize.schema import BACKENDS, Calibration, QuantizeSpec

#: What vLLM loads (0.32): see the vLLM documentation of quantization.
_VLLM = {"gptq", "awq", "w8a8", "fp8"}
_LLAMA_CPP = {"gguf"}
_GROUPED = {"gptq", "awq", "hqq"}
_UNCALIBRATED = {"bnb-nf4", "bnb-int8", "hqq"}
_OPTIONS = {"output_tensor_type", "token_embedding_type", "pure"}


def check(spec: QuantizeSpec, context: CheckContext) -> list[Problem]:
    """Every problem that can be seen without loading anything."""
    problems = [*_target(spec), *_options(spec), *_unused(spec)]
    problems += _data(spec, context)
    if context.is_reference(spec.model):
        return problems
    try:
        location = resolve_model(spec.model, context.paths)
    except ModelOpsError as error:
        return [*problems, Problem(("model",), str(error), error.hint)]
    return problems + _model(spec, location)


def _data(spec: QuantizeSpec, context: CheckContext) -> list[Problem]:
    from engine.data.source import resolve_data

    problems = []
    for path, ref in (
        (("eval", "data"), spec.eval.data),
        (("eval", "neutral"), spec.eval.neutral),
        (("calibration", "data"), spec.calibration.data),
    ):
        if ref is None or context.is_reference(ref):
            continue
        try:
            resolve_data(ref, context.paths)
        except ModelOpsError as error:
            problems.append(Problem(path, str(error), error.hint))
    return problems


def _target(spec: QuantizeSpec) -> list[Problem]:
    problems = []
    if spec.target == "vllm":
        if spec.format not in _VLLM:
            problems.append(
                Problem(
                    ("target",),
                    f"vLLM does not load {spec.format}",
                    f"formats for vLLM: {', '.join(sorted(_VLLM))}",
                )
            )
        if spec.format == "gptq":
            problems += _vllm_gptq(spec)
        if spec.format == "awq" and spec.bits != 4:
            problems.append(Problem(("bits",), "vLLM loads AWQ with 4 bits only", "set bits = 4"))
    if spec.target in ("llama.cpp", "ollama") and spec.format not in _LLAMA_CPP:
        problems.append(
            Problem(("target",), f"{spec.target} loads GGUF only", 'set format = "gguf"')
        )
    if spec.target == "transformers" and spec.format == "gguf":
        problems.append(
            Problem(
                ("target",),
                "transformers unpacks a GGUF to full size when it loads it",
                'set format = "gptq" or "awq" to keep it small there',
                "warning",
            )
        )
    if spec.format in ("gptq", "awq") and spec.bits == 2:
        problems.append(
            Problem(("bits",), f"{spec.format} with 2 bits is beyond use", "set bits = 3 or 4")
        )
    return problems


def _vllm_gptq(spec: QuantizeSpec) -> list[Problem]:
    problems = []
    if spec.bits not in (4, 8):
        problems.append(Problem(("bits",), "vLLM loads GPTQ with 4 or 8 bits", "set bits = 4"))
    if spec.options.get("sym") is False:
        problems.append(
            Problem(("options", "sym"), "vLLM loads symmetric GPTQ only", "leave sym out")
        )
    if spec.options.get("desc_act") and spec.group_size != -1:
        problems.append(
            Problem(
                ("options", "desc_act"),
                "vLLM does not load GPTQ with both groups and desc_act",
                "leave desc_act out, or set group_size = -1",
            )
        )
    return problems


def _options(spec: QuantizeSpec) -> list[Problem]:
    if spec.format != "gguf":
        return []
    return [
        Problem(("options", name), f"{name} is no option of llama.cpp's quantizer", _allowed())
        for name in spec.options
        if name not in _OPTIONS
    ]


def _unused(spec: QuantizeSpec) -> Iterator[Problem]:
    """Keys that are set and have no effect with this format (of plugins we don't know)."""
    if spec.format not in BACKENDS:
        return
    if spec.format != "gguf" and spec.budget is not None:
        yield Problem(
            ("budget",),
            f"budget can't be kept with format {spec.format!r}: it chooses among levels",
            'set format = "gguf", or leave budget out and look at the size in the report',
        )
    names: list[str] = []
    if spec.format != "gguf":
        names += ["levels", "imatrix", "intermediate"]
    if spec.format not in _GROUPED:
        names += ["bits", "group_size"]
    for name in names:
        field = QuantizeSpec.model_fields[name]
        if getattr(spec, name) != field.get_default(call_default_factory=True):
            what = f"{name} has no effect with format {spec.format!r}"
            yield Problem((name,), what, "", "warning")
    if spec.format in _UNCALIBRATED and spec.calibration != Calibration():
        what = f"format {spec.format!r} is not calibrated: [calibration] has no effect"
        yield Problem(("calibration",), what, "", "warning")


def _allowed() -> str:
    return f"options: {', '.join(sorted(_OPTIONS))}"


def _model(spec: QuantizeSpec, location: ModelLocation) -> list[Problem]:
    root = location.root
    if root.kind != "hf":
        return []
    config = config_of(root.path)
    if not config:
        return []
    if spec.format == "gguf" and spec.chosen_backend == "llama-cpp":
        try:
            family_of(config)
        except ModelOpsError as error:
            return [Problem(("model",), str(error), error.hint)]
    if spec.format in ("gptq", "awq", "hqq"):
        return _group(spec, config)
    return []


def _group(spec: QuantizeSpec, config: dict[str, Any]) -> list[Problem]:
    size = spec.group_size
    widths = in_features(config)
    if size == "auto":
        if widths and group_size(widths) is None:
            return [
                Problem(
                    ("group_size",),
                    f"no group size divides the layers' inputs ({_listed(widths)})",
                    "set group_size = -1 (one scale a column)",
                )
            ]
        return []
    bad = [w for w in widths if size > 0 and w % size]
    if size == 0 or bad:
        best = group_size(widths)
        return [
            Problem(
                ("group_size",),
                f"groups of {size} do not divide the layers' inputs ({_listed(bad or widths)})",
                f"set group_size = {best}" if best else "set group_size = -1",
            )
        ]
    return []


def _listed(widths: list[int]) -> str:
    return ", ".join(str(w) for w in sorted(set(widths)))


def in_features(config: dict[str, Any]) -> list[int]:
    """Input widths of a decoder block's linear layers."""
    try:
        found = read_config(config)
        return sorted(
            {
                found.hidden,
                found.heads * found.head_dim,
                int(found.get("intermediate_size", "n_inner", default=4 * found.hidden)),
            }
        )
    except ModelOpsError:
        return []


def group_size(widths: list[int]) -> int | None:
    """The largest of 128, 64, 32 that divides every width, or None."""
    return next((g for g in (128, 64, 32) if all(w % g == 0 for w in widths)), None)


def config_of(folder: Path) -> dict[str, Any]:
    """The model's ``config.json``; empty where it can't be read."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
