"""Loading models and tokenizers: the heavy half of a model reference.

``engine.models.resolve_model`` finds; this package loads, dequantizes a packaged GGUF once, and
merges adapters. Every import of torch, transformers and peft is inside the functions.
"""

from __future__ import annotations

from recipes.loading.base import base_artifact, ensure_base
from recipes.loading.causal import load_causal_lm, load_tokenizer
from recipes.loading.merge import merge_adapter, merged_folder, write_model
from recipes.loading.precision import Precision, choose_precision

__all__ = [
    "Precision",
    "base_artifact",
    "choose_precision",
    "ensure_base",
    "load_causal_lm",
    "load_tokenizer",
    "merge_adapter",
    "merged_folder",
    "write_model",
]
