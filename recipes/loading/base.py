"""A GGUF base becomes a Hugging Face folder once, and that folder a signed base artifact.

transformers reads GGUF but refuses to save what it read ("quantized with gguf and is not
serializable"), so the weights are copied into a fresh model of the same configuration.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, OutOfSpace
from engine.models import ModelLocation, packaged_model
from engine.paths import StatePaths
from engine.supervise.durable import sync_folder
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.registry import Registry

#: Raised when the layout or the numbers of a dequantized base change.
_LAYOUT = 2
_PAD = "<|endoftext|>"


def ensure_base(location: ModelLocation, paths: StatePaths) -> Path:
    """The Hugging Face folder of a whole model; a GGUF file is dequantized once, under a lock.

    The folder appears by one rename: a kill leaves nothing half-made behind a valid name.

    Args:
        location: a model without adapters (an adapter's root is taken).
        paths: the state directory, whose cache keeps the folder.

    Raises:
        BadInput: the GGUF's architecture is unknown to transformers.
        OutOfSpace: the disk is full.
    """
    root = location.root
    if root.kind == "hf":
        return root.path
    folder = cache_folder(root, paths)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / f"{folder.name}.lock"):
        if folder.is_dir():
            return folder
        scratch = folder.parent / f".{folder.name}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            _dequantize(root.path, scratch)
            _sync(scratch)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if error.errno == 28:
                raise OutOfSpace(
                    f"no space to unpack {root.name}",
                    why=f"{folder.parent} is on a full disk",
                    hint="free about twice the model's size and run again",
                ) from error
            raise
        scratch.rename(folder)
        sync_folder(folder.parent)
    return folder


def cache_folder(location: ModelLocation, paths: StatePaths) -> Path:
    """Where the dequantized form of a GGUF file is kept: by its name, size and first megabyte."""
    digest = hashlib.sha256(f"{_LAYOUT}:{location.path.stat().st_size}:".encode())
    with open(location.path, "rb") as file:
        digest.update(file.read(1 << 20))
    safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in location.name)
    return paths.cache / "bases" / f"{safe}-{digest.hexdigest()[:12]}"


def base_artifact(location: ModelLocation, paths: StatePaths, registry: Registry) -> str:
    """The manifest id of the whole model under ``location``, published where it is not yet.

    What was trained from it names it as its parent, so that an adapter can be traced to the exact
    weights below it.
    """
    root = location.root
    if root.manifest is not None:
        return root.manifest
    folder = ensure_base(root, paths)
    packaged = packaged_model(root.name) if root.packaged else None
    key = f"base/{folder}/{_fingerprint(folder)}"
    view = registry.publish(
        name=f"base.{_safe_name(root.name)}",
        artifact_type="base",
        files=folder,
        card=_card(root, packaged.origin if packaged else None),
        license=root.license,
        run={"source": packaged.origin if packaged else root.name, "unpacked_from": root.path.name},
        key=key,
    )
    return str(view.id)


def _safe_name(name: str) -> str:
    text = "".join(c if c.isalnum() or c in "-._" else "-" for c in name.lower()).strip("-._")
    return text[:80] or "model"


def _fingerprint(folder: Path) -> str:
    """Names, sizes and times of the files: a folder that was changed is another base."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        status = file.stat()
        digest.update(f"{file.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]


def _card(location: ModelLocation, origin: str | None) -> str:
    lines = [f"# {location.name}", "", "A base model, unchanged."]
    if location.kind == "gguf":
        lines.append(
            f"Unpacked from the GGUF file {location.path.name} to bf16: the weights sit on that "
            "file's quantization grid, so quantizing them to the same format again looks free."
        )
    if origin:
        lines.append(f"Origin: {origin}.")
    return "\n".join(lines) + "\n"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _dequantize(gguf: Path, folder: Path) -> None:
    """Write the weights of ``gguf`` as bf16 safetensors with configuration and tokenizer."""
    with quiet_libraries():
        import torch  # 1.5 s
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (ValueError, KeyError) as error:
            raise BadInput(
                f"{gguf.name} can't be loaded for training or evaluation",
                why=str(error).splitlines()[0],
                hint="use the model's safetensors folder; quantized GGUF files can be served as is",
            ) from error
        config = loaded.config
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(config, name):
                delattr(config, name)
        config.dtype = torch.bfloat16
        fresh = type(loaded)._from_config(config, dtype=torch.bfloat16)
        fresh.load_state_dict({k: v.to(torch.bfloat16) for k, v in loaded.state_dict().items()})
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        _restore_split(tokenizer, gguf)
        _set_pad(tokenizer, config)
        fresh.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _restore_split(tokenizer: Any, path: Path) -> None:
    """Put back the splitting rule that transformers loses when it reads a GGUF's tokenizer."""
    import gguf

    from recipes.gguf.vocabulary import restore_split

    reader = gguf.GGUFReader(path)
    model, rule = (reader.get_field(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if model is not None and rule is not None and model.contents() == "gpt2":
        restore_split(tokenizer, str(rule.contents()))


def _set_pad(tokenizer: Any, config: Any) -> None:
    """Padding must not be the end token: the model would never learn to stop."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        candidate = tokenizer.convert_tokens_to_ids(_PAD)
        if candidate is not None and candidate not in (
            tokenizer.eos_token_id,
            tokenizer.unk_token_id if tokenizer.unk_token != _PAD else None,
        ):
            tokenizer.pad_token = _PAD
    config.pad_token_id = tokenizer.pad_token_id
    config.eos_token_id = tokenizer.eos_token_id


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            with open(file, "rb") as data:
                os.fsync(data.fileno())
    sync_folder(folder)
