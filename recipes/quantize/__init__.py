"""Quantization with its price shown: GGUF in the main environment, other formats by backends."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.quantize.schema import QuantizeSpec

KIND = Kind(
    name="quantize",
    summary="make a model smaller, and show what each size costs: perplexity, KL, tokens/s",
    model=QuantizeSpec,
    run="recipes.quantize.run:run",
    outputs={
        "model": "artifact",
        "models": "text",
        "kl": "number",
        "perplexity": "number",
        "size_bytes": "number",
        "tokens_per_s": "number",
        "report": "artifact",
    },
    lane="auto",
    check="recipes.quantize.check:check",
    estimate="recipes.quantize.estimate:estimate",
    resumable=True,
    code=(
        "recipes.gguf",
        "recipes.loading",
        "recipes.measuring",
        "recipes.export",
        "engine.models",
    ),
)
