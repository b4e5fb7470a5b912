"""What an isolated backend will need, told before it starts: no torch, no backend.

Every calibrated backend here works layer by layer and holds, at its peak: its libraries, the
source in 16 bits, the hidden states of all calibration tokens in front of and behind the layer, and
for GPTQ the layer's Hessian with its inverse (columns squared, float32). The measurement that
follows holds the logits of one window. The larger of the two is the peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import DoesNotFit, ModelOpsError
from recipes.gguf.families import read_config

if TYPE_CHECKING:
    from recipes.quantize.schema import QuantizeSpec

#: torch, transformers and the backend loaded, no model yet (450 to 890 MB measured by backend).
_LIBRARIES = 900 << 20
#: Copies of the calibration's hidden states that are alive at once: in, out, and the layer's own.
_STATES = 4
#: Matrices of columns squared: Hessian, damped copy, inverse.
_HESSIANS = 3
#: Formats that look at no text.
UNCALIBRATED = ("bnb-nf4", "bnb-int8", "hqq", "fp8")


def backend_memory(
    spec: QuantizeSpec, config: Mapping[str, Any], weights_bytes: int
) -> dict[str, int]:
    """Peak memory of the backend's process in bytes, by part.

    Args:
        spec: the step.
        config: the source's ``config.json``.
        weights_bytes: size of the source's weights, stored in 16 bits.
    """
    parts = {"libraries": _LIBRARIES, "source weights": weights_bytes}
    try:
        shape = read_config(dict(config))
        hidden = shape.hidden
    except ModelOpsError:  # an architecture the converter does not know: the weights still count
        return parts
    inner = int(shape.get("intermediate_size", "n_inner", default=4 * hidden))
    vocabulary = int(config.get("vocab_size") or 0)
    logits = 3 * spec.eval.window * vocabulary * 4
    working = {}
    if spec.format not in UNCALIBRATED:
        states = _STATES * spec.calibration.tokens * hidden * 4
        # a layer's widest input is seen whole by the scale search
        working["calibration states"] = states + 2 * spec.calibration.tokens * inner * 4
    if spec.format == "gptq":
        working["Hessian"] = _HESSIANS * inner * inner * 4
    return {**parts, **(working if sum(working.values()) > logits else {"logits": logits})}


def check_room(
    spec: QuantizeSpec, config: Mapping[str, Any], weights_bytes: int, free: int
) -> None:
    """Refuse a backend's work that can't end for lack of memory.

    Args:
        spec: the step.
        config: the source's ``config.json``.
        weights_bytes: size of the source's weights.
        free: memory that is available now, in bytes.

    Raises:
        DoesNotFit: with the parts, and what would make it fit.
    """
    parts = backend_memory(spec, config, weights_bytes)
    need = sum(parts.values())
    if need <= free:
        return
    raise DoesNotFit(
        f"{spec.chosen_backend} needs about {need / 1e9:.1f} GB of memory for {spec.format}, "
        f"{free / 1e9:.1f} GB are free",
        why=", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items()),
        hint=_advice(spec, parts, need - free),
    )


def _advice(spec: QuantizeSpec, parts: Mapping[str, int], missing: int) -> str:
    """The setting that would free ``missing`` bytes, where there is one."""
    states = parts.get("calibration states", 0)
    if states:
        # the part is linear in the tokens
        fitting = int(spec.calibration.tokens * (1 - missing / states)) // 256 * 256
        if fitting >= 1024:
            return f"set calibration.tokens = {fitting}"
    if parts.get("logits", 0) > missing:
        return f"set eval.window = {max(64, spec.eval.window // 2)}, or close other programs"
    return "close other programs, or quantize on a machine with more memory"
