"""Exports for other programs, each with the proof that it behaves like its source."""

from __future__ import annotations

from engine.kinds import Kind
from recipes.export.schema import ExportSpec

KIND = Kind(
    name="export",
    summary="write a model for another program (Hugging Face, Ollama, vLLM), with a proof",
    model=ExportSpec,
    run="recipes.export.run:run",
    outputs={
        "model": "artifact",
        "path": "text",
        "exact": "number",
        "prompts": "number",
        "size_bytes": "number",
    },
    lane="auto",
    check="recipes.export.check:check",
    estimate="recipes.export.check:estimate",
    code=("recipes.gguf", "recipes.loading", "recipes.measuring", "engine.models"),
)
