"""A LoRA adapter as a GGUF beside its PEFT files: for llama.cpp over any GGUF of the same base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.measuring.proof import Proof, SourceAnswer, prove_gguf
from recipes.quantize.run import link_or_copy

if TYPE_CHECKING:
    from engine.models import ModelLocation
    from engine.worker.context import StepContext

#: The file llama.cpp reads.
ADAPTER_FILE = "adapter.gguf"

_PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_adapter(
    ctx: StepContext,
    adapter: ModelLocation,
    answers: list[SourceAnswer],
    stops: tuple[int, ...],
    staging: Path,
) -> tuple[Proof, tuple[str, ...]]:
    """Convert ``adapter`` and prove it: llama.cpp with base and LoRA answers as PEFT does.

    The proof runs over the unquantized base, where nothing but rounding may differ; over a
    quantized base the adapter adds to what that one already costs.

    Args:
        ctx: of the step.
        adapter: a PEFT LoRA adapter.
        answers: of the base with the adapter, in torch.
        stops: token ids that must end a generation.
        staging: gets the files.

    Returns:
        the proof, and notes for the reader.

    Raises:
        Refused: llama.cpp can't apply this adapter (DoRA, other PEFT types, another base).
    """
    from recipes.loading import load_tokenizer, merged_folder
    from recipes.serve.lora import lora_gguf

    base = adapter.base
    assert base is not None
    whole = ctx.work_dir / "base.gguf"
    notes: tuple[str, ...] = ()
    if base.kind == "gguf" and not base.packaged:
        whole = base.path
        notes = (f"proven over {base.path.name}: what that file costs is in the proof",)
    elif not whole.is_file():
        from recipes.gguf.convert import convert

        ctx.phase("converting the base to GGUF")
        notes = convert(
            merged_folder(base, ctx.paths),
            whole,
            name=base.name,
            progress=lambda done, total: ctx.progress(done, total, "bytes"),
            tokenizer=load_tokenizer(base, paths=ctx.paths),
        ).notes
    ctx.phase("converting the adapter")
    made = lora_gguf(adapter, whole, ctx.paths)
    shutil.copyfile(made, staging / ADAPTER_FILE)
    for name in _PEFT_FILES:
        link_or_copy(adapter.path / name, staging / name)
    ctx.phase("proving the export")
    proof = prove_gguf(
        whole,
        answers,
        load_tokenizer(base, paths=ctx.paths),
        stops=stops,
        noise=None,
        threads=ctx.threads,
        gpu_layers=-1 if ctx.device == "cuda" else 0,
        lossless=True,
        adapters=(staging / ADAPTER_FILE,),
        check_stop=lambda: ctx.raise_stopped() if ctx.should_stop else None,
    )
    if whole.is_relative_to(ctx.work_dir):
        whole.unlink()
    return proof, notes
