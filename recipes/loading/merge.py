"""Merging adapters into their base: one plain Hugging Face folder that needs no PEFT."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path
from typing import Any

from engine.errors import Conflict
from engine.models import ModelLocation
from engine.paths import StatePaths
from recipes.loading.causal import load_causal_lm, load_tokenizer
from recipes.loading.quiet import quiet_libraries


def merged_folder(location: ModelLocation, paths: StatePaths) -> Path:
    """The merged form of an adapter, made once and kept in the cache (by its weights' hash).

    A whole model's own folder is returned as it is.
    """
    from recipes.loading.base import ensure_base

    if location.base is None:
        return ensure_base(location, paths)
    digest = hashlib.sha256()
    here: ModelLocation | None = location
    while here is not None:
        for file in sorted(here.path.glob("*.safetensors")) if here.path.is_dir() else [here.path]:
            with open(file, "rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
        here = here.base
    folder = paths.cache / "merged" / digest.hexdigest()[:24]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            scratch = folder.parent / f".{folder.name}.part"
            shutil.rmtree(scratch, ignore_errors=True)
            merge_adapter(location, scratch, paths)
            scratch.rename(folder)
    return folder


def merge_adapter(
    location: ModelLocation, folder: Path, paths: StatePaths, dtype: Any = None
) -> Path:
    """Merge the adapter (or chain of adapters) at ``location`` and write the whole model.

    The sum is computed in fp32 and stored in ``dtype`` (default: bf16, the base's own precision).

    Raises:
        Conflict: ``location`` is a whole model already.
    """
    if location.base is None:
        raise Conflict(f"{location.name!r} is no adapter", hint="there is nothing to merge")
    import torch

    model = load_causal_lm(location, torch.float32, "cpu", paths=paths)
    with quiet_libraries():
        while hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload(safe_merge=True)
        return write_model(model, load_tokenizer(location, paths=paths), folder, dtype)


def write_model(model: Any, tokenizer: Any, folder: Path, dtype: Any = None) -> Path:
    """Write a whole model with its tokenizer and chat template, readable by everyone."""
    import torch

    with quiet_libraries():
        target = dtype or torch.bfloat16
        model = model.to(target)
        model.config.dtype = target
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder
