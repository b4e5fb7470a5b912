"""What several processes change before a run starts: mistakes of the recipe, memory, time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec

from engine.devices.probe import gpus
from engine.recipe.check import Problem
from engine.types.system import Estimate, EstimateContext
from recipes.finetune.schema import PREFERENCE_METHODS, FinetuneSpec

_AT = ("train", "distributed")
#: Optimizers whose state the strategies can spread.
_SPREADABLE = {"fsdp": ("adamw", "sgd"), "deepspeed": ("adamw",)}
#: Which parts of the memory are divided among the processes, by strategy and stage.
_DIVIDED = {
    "ddp": frozenset[str](),
    "zero-1": frozenset({"optimizer"}),
    "zero-2": frozenset({"optimizer", "gradients"}),
    "zero-3": frozenset({"optimizer", "gradients", "weights", "adapters"}),
    "fsdp": frozenset({"optimizer", "gradients", "weights", "adapters"}),
}


def check_distributed(spec: FinetuneSpec) -> Iterator[Problem]:
    """What can't be, told before anything is loaded."""
    asked = spec.train.distributed
    if asked.zero_stage != 2 and asked.strategy != "deepspeed":
        yield Problem(
            (*_AT, "zero_stage"), "zero_stage belongs to DeepSpeed", 'set strategy = "deepspeed"'
        )
    if asked.processes == 1:
        if asked.strategy != "ddp":
            yield Problem(
                (*_AT, "strategy"),
                f"{asked.strategy!r} spreads a model over processes, and there is one",
                "set train.distributed.processes to 2 or more, or leave strategy out",
            )
        return
    yield from _check_places(spec)
    if spec.train.method in PREFERENCE_METHODS:
        yield Problem(
            (*_AT, "processes"),
            f"method {spec.train.method!r} trains in one process",
            "several processes train lora, qlora, dora, full and pretrain",
        )
    for section, key, value in (
        ("train", "batch", spec.train.batch),
        ("data", "max_length", spec.data.max_length),
    ):
        if value == "auto":
            yield Problem(
                (section, key),
                f"{key} = 'auto' is solved for one process",
                "give a number: it is per process",
            )
    if asked.strategy == "deepspeed" and find_spec("deepspeed") is None:
        yield Problem(
            (*_AT, "strategy"),
            "DeepSpeed is not installed",
            "pip install 'modelops-tui[deepspeed]', or set strategy = \"fsdp\"",
        )
    if asked.strategy != "ddp":
        yield from _check_spread(spec)


def _check_places(spec: FinetuneSpec) -> Iterator[Problem]:
    """There must be a GPU, or a CPU core, for every process."""
    from recipes.finetune.fit import usable_cores

    wanted, device = spec.train.distributed.processes, spec.resources.device
    cards = [] if device == "cpu" else gpus()
    if device not in ("auto", "cpu", "gpu"):
        yield Problem(
            ("resources", "device"),
            f"{wanted} processes can't share the GPU {device}",
            'set resources.device = "gpu": the engine takes as many as there are processes',
        )
    elif cards or device == "gpu":
        if wanted > len(cards):
            yield Problem(
                (*_AT, "processes"),
                f"{wanted} processes need {wanted} GPUs, this machine has {len(cards)}",
                "one process trains on one GPU",
            )
    elif wanted > usable_cores():
        yield Problem(
            (*_AT, "processes"),
            f"{wanted} processes need as many CPU cores, there are {usable_cores()}",
            "on a CPU several processes are seldom faster than one with more threads",
        )


def _check_spread(spec: FinetuneSpec) -> Iterator[Problem]:
    """What does not go together with a model that no process holds whole."""
    strategy, train = spec.train.distributed.strategy, spec.train
    optimizers = _SPREADABLE[strategy]
    for key, wrong, advice in (
        ("method", train.method == "qlora", '4-bit weights can\'t be spread: use "ddp"'),
        ("method", train.method == "dora", 'DoRA needs whole weights: use "ddp"'),
        ("optimizer", train.optimizer not in optimizers, f"use {' or '.join(optimizers)}"),
        ("keep", train.keep == "best", 'the last weights are the result: keep = "last"'),
        ("kernels", train.kernels == "liger", 'use kernels = "auto"'),
        ("compile", train.compile, "leave compile out"),
        ("precision", train.precision == "fp16", 'use "bf16" or "fp32"'),
    ):
        if wrong:
            yield Problem(
                ("train", key), f"train.{key} does not go together with {strategy!r}", advice
            )


def spread(spec: FinetuneSpec, found: Mapping[str, int], device: str) -> dict[str, int]:
    """Memory by part with several processes: of one GPU, or of all processes on a CPU.

    FSDP and ZeRO-3 gather one layer at a time; that layer is within the estimate's slack.
    """
    asked = spec.train.distributed
    name = f"zero-{asked.zero_stage}" if asked.strategy == "deepspeed" else asked.strategy
    each = {
        part: size // asked.processes if part in _DIVIDED[name] else size
        for part, size in found.items()
    }
    if device != "cpu":
        return each
    return {part: size * asked.processes for part, size in each.items()}


def estimate(spec: FinetuneSpec, context: EstimateContext) -> Estimate:
    """The fit estimate of one process (see ``recipes.finetune.fit``), made that of all of them."""
    from recipes.finetune import fit

    one = fit.estimate(spec, context)
    count = spec.train.distributed.processes
    if count == 1:
        return one
    device = fit.device_of(context.device)
    parts = spread(spec, one.parts, device)
    # the margin, or the correction by past runs, stays in proportion
    factor = sum(parts.values()) / max(sum(one.parts.values()), 1)
    of = f"all {count} processes together" if device == "cpu" else f"one of {count} GPUs"
    # the processes of a CPU share its cores: they need the same time
    seconds = one.seconds / count if one.seconds and device != "cpu" else one.seconds
    return replace(
        one,
        memory_bytes=int(one.memory_bytes * factor),
        seconds=seconds,
        parts=parts,
        notes=(*one.notes, f"memory of {of}; with several processes it was not measured yet"),
    )
