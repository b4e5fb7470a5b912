"""Conversion to GGUF by llama.cpp's own script, in its isolated environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.backends import BackendProcess, BackendStore, find

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.quantize.run import Source
    from recipes.quantize.schema import QuantizeSpec


def convert_by_backend(
    ctx: StepContext, spec: QuantizeSpec, source: Source, target: Path
) -> tuple[str, ...]:
    """Write ``target``; it is checked and proven afterwards like a file of our own converter.

    Raises:
        MissingPart: the environment can't be made.
        StepFailed: the script failed, with its last lines.
    """
    backend = find("llama-cpp-convert")
    store = BackendStore(ctx.paths)
    if not store.ready(backend):
        ctx.phase(f"making the environment of {backend.name}")
    python = store.ensure(backend, lambda text: ctx.note(text))
    ctx.phase("converting to GGUF")
    partial = target.with_name(target.name + ".partial")
    request = {"source": str(source.folder), "output": str(partial), "dtype": spec.intermediate}
    with BackendProcess(
        backend, python, ctx.work_dir / f"{backend.name}.log", threads=ctx.threads
    ) as process:
        try:
            process.call("quantize", request, should_stop=lambda: ctx.should_stop)
        except InterruptedError:
            ctx.raise_stopped()
    os.replace(partial, target)
    return (f"converted by llama.cpp's own script ({backend.sdist})",)
