"""The ``finetune`` step: sets the process up and hands over to the method's own module."""

from __future__ import annotations

import os
import random
from importlib import import_module
from typing import TYPE_CHECKING

from engine.errors import DoesNotFit, MissingPart
from recipes.finetune.batch_size import halve_batch
from recipes.finetune.memory import keep_few_primitives
from recipes.finetune.schema import FinetuneSpec

if TYPE_CHECKING:
    from engine.worker.context import StepContext, StepResult

#: Method to the module whose ``train(ctx, spec)`` does it.
MODULES = {
    "lora": "supervised",
    "qlora": "supervised",
    "dora": "supervised",
    "full": "supervised",
    "pretrain": "supervised",
    "dpo": "preference",
    "kto": "preference",
    "orpo": "preference",
    "reward": "reward",
    "grpo": "grpo",
}


def run(ctx: StepContext) -> StepResult:
    """Fine-tune as the recipe says and publish what came out.

    Raises:
        StepFailed: the loss is not a number.
        BadInput: rows, model or settings can't be used.
        DoesNotFit: memory ran out on the device.
        MissingPart: the method needs a library that is not installed.
    """
    spec = ctx.params
    if not isinstance(spec, FinetuneSpec):
        raise TypeError(f"finetune was given a {type(spec).__name__}")
    # before torch is imported: spinning threads beside any busy process cost a factor of 2 to 30
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_few_primitives()
    if spec.train.distributed.processes > 1:
        from recipes.finetune.distributed import train_together

        return train_together(ctx, spec)
    set_up(ctx)
    module = import_module(f"recipes.finetune.{MODULES[spec.train.method]}")
    try:
        try:
            result: StepResult = module.train(ctx, spec)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if spec.train.batch != "auto" or not halve_batch(ctx):
                raise out_of_memory(spec, str(error).strip().partition("\n")[0]) from error
            ctx.note("memory ran out: once more with half the batch", level="warning")
            release_memory()
            set_up(ctx)
            try:
                result = module.train(ctx, spec)
            except (MemoryError, RuntimeError) as again:
                if not is_out_of_memory(again):
                    raise
                raise out_of_memory(spec, str(again).strip().partition("\n")[0]) from again
    except ImportError as error:
        raise MissingPart(
            f"method {spec.train.method!r} needs a library that is not installed",
            why=str(error),
            hint="pip install 'modelops-tui[preference]'",
        ) from error
    return result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) ran out of memory, on the CPU or the GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def release_memory() -> None:
    """Let go of the failed try's tensors."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def set_up(ctx: StepContext) -> None:
    """Threads and seeds of this process."""
    import numpy as np
    import torch  # 1.5 s

    if ctx.threads:
        torch.set_num_threads(ctx.threads)
    # by hand: transformers' set_seed imports the trainer and bitsandbytes first
    random.seed(ctx.seed)
    np.random.seed(ctx.seed)
    torch.manual_seed(ctx.seed)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def out_of_memory(spec: FinetuneSpec, reason: str) -> DoesNotFit:
    """What to change when memory ran out, by what helps most."""
    advice = []
    if spec.train.batch == "auto" or spec.train.batch > 1:
        advice.append("train.batch lower, with train.accumulate higher for the same result")
    if not spec.train.checkpointing:
        advice.append("train.checkpointing = true (a quarter slower)")
    if spec.train.method in ("full", "pretrain"):
        advice.append('method = "lora"')
    elif spec.train.method in ("lora", "dora"):
        advice.append('method = "qlora"')
    advice.append("data.max_length lower")
    return DoesNotFit(
        "memory ran out while training", why=reason, hint="in this order: " + "; ".join(advice)
    )
