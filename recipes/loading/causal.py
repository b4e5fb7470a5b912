"""Causal language models and their tokenizers from a ``ModelLocation``, never with remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import BadInput
from engine.models import ModelLocation
from engine.paths import StatePaths
from recipes.loading.base import ensure_base
from recipes.loading.quiet import quiet_libraries


def load_causal_lm(
    location: ModelLocation,
    dtype: Any = "auto",
    device: str = "cpu",
    *,
    paths: StatePaths | None = None,
    quantization: Any = None,
    attention: str | None = None,
) -> Any:
    """Load a model, with its adapters put on (not merged), in evaluation mode.

    Args:
        location: what ``resolve_model`` found.
        dtype: a ``torch.dtype`` for the weights, or ``auto`` (as stored).
        device: ``cpu`` or ``cuda``.
        paths: the state directory (default: the environment's), for unpacked GGUF bases.
        quantization: a transformers quantization config (QLoRA).
        attention: attention implementation (default: transformers' choice for the architecture,
            which is sdpa but for a few, such as Gemma 2, that need their own).

    Raises:
        BadInput: the files do not make a causal language model.
    """
    if location.base is not None:
        model = load_causal_lm(location.base, dtype, device, paths=paths, quantization=quantization)
        return _with_adapter(model, location)
    folder = ensure_base(location, paths or StatePaths.default())
    with quiet_libraries():
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM  # 2.3 s

        options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
        if quantization is not None:
            options["quantization_config"] = quantization
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options
            )
        except (ValueError, KeyError, OSError, SafetensorError) as error:
            raise BadInput(
                f"the model {location.name!r} can't be loaded",
                why=str(error).strip().splitlines()[0],
                hint="it must be a causal language model with safetensors weights",
            ) from error
    if quantization is None and device != "cpu":
        model = model.to(device)
    return model.eval()


def _with_adapter(model: Any, location: ModelLocation) -> Any:
    with quiet_libraries():
        from peft import PeftModel  # 3 s
        from safetensors import SafetensorError

        try:
            return PeftModel.from_pretrained(model, str(location.path)).eval()
        except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            raise BadInput(
                f"the adapter {location.name!r} does not fit its base",
                why=str(error).strip().splitlines()[0],
                hint=f"it was put on {location.root.name!r}: is that what it was trained on?",
            ) from error


def load_tokenizer(location: ModelLocation, *, paths: StatePaths | None = None) -> Any:
    """The tokenizer that belongs to a model; an adapter's own one where it has one.

    Raises:
        BadInput: there is none, or it is no fast tokenizer (offsets are needed for loss masks).
    """
    folder = tokenizer_folder(location, paths or StatePaths.default())
    with quiet_libraries():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (ValueError, KeyError, OSError) as error:
            raise BadInput(
                f"the tokenizer of {location.name!r} can't be loaded",
                why=str(error).strip().splitlines()[0],
                hint="the model's folder must hold tokenizer.json",
            ) from error
    if not tokenizer.is_fast:
        raise BadInput(
            f"the tokenizer of {location.name!r} gives no offsets",
            why="it is a slow (Python) tokenizer",
            hint="convert it to tokenizer.json with transformers",
        )
    return tokenizer


def tokenizer_folder(location: ModelLocation, paths: StatePaths) -> Path:
    """The folder whose tokenizer files count for ``location``."""
    here = location
    while here.base is not None:
        if (here.path / "tokenizer_config.json").is_file():
            return here.path
        here = here.base
    return ensure_base(here, paths)
