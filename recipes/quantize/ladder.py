"""The GGUF ladder: one unquantized file, then every level made, measured and proven from it.

Every stage leaves a file in the step's work folder that gets its name only when it is complete, so
an interrupted step goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput, DoesNotFit, OutOfSpace
from recipes.gguf.levels import LEVELS
from recipes.measuring.measure import Measured, Reference, save_json
from recipes.measuring.proof import Proof, SourceAnswer, prove_gguf, require

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.gguf.quantizer import Settings, SizePlan
    from recipes.quantize.schema import QuantizeSpec


@dataclass(frozen=True)
class Rung:
    """One finished level."""

    level: str
    path: Path
    size_bytes: int
    bits_per_weight: float
    measured: dict[str, Measured]
    """By text: the held-out one and the neutral one."""
    proof: dict[str, Any]
    tokens_per_s: float
    memory_bytes: int
    seconds: float
    fallbacks: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def main(self) -> Measured:
        """The figures on the held-out text."""
        return next(iter(self.measured.values()))

    def to_json(self) -> dict[str, Any]:
        """For ``<level>.json``."""
        return {
            "level": self.level,
            "file": self.path.name,
            "size_bytes": self.size_bytes,
            "bits_per_weight": self.bits_per_weight,
            "measured": {k: v.to_json() for k, v in self.measured.items()},
            "proof": self.proof,
            "tokens_per_s": self.tokens_per_s,
            "memory_bytes": self.memory_bytes,
            "seconds": self.seconds,
            "fallbacks": list(self.fallbacks),
            "settings": self.settings,
        }


def load_rung(path: Path, folder: Path) -> Rung | None:
    """A level that an earlier attempt finished, or None."""
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    file = folder / value.pop("file")
    if not file.exists() or (file.is_file() and file.stat().st_size != value["size_bytes"]):
        return None
    value["measured"] = {k: Measured(**v) for k, v in value["measured"].items()}
    value["fallbacks"] = tuple(value["fallbacks"])
    return Rung(path=file, **value)


@dataclass(frozen=True)
class Bench:
    """What levels are measured against."""

    references: tuple[Reference, ...]
    answers: tuple[SourceAnswer, ...]
    stops: tuple[int, ...]
    tokenizer: Any
    parameters: int


def plan_levels(ctx: StepContext, spec: QuantizeSpec, unquantized: Path) -> dict[str, SizePlan]:
    """The exact size of every level; those over the budget are left out.

    Raises:
        DoesNotFit: no level fits the budget.
        OutOfSpace: the disk has no room for the levels.
    """
    import os

    from recipes.gguf.quantizer import plan_size
    from recipes.quantize.schema import parse_size

    plans = {
        name: plan_size(unquantized, settings_of(spec, name, ctx.threads, None))
        for name in spec.levels
    }
    if spec.budget is not None:
        limit = parse_size(spec.budget)
        fitting = {k: v for k, v in plans.items() if v.bytes <= limit}
        for name in plans.keys() - fitting.keys():
            ctx.note(f"{name} is left out: {plans[name].bytes / 1e9:.2f} GB, over {spec.budget}")
        if not fitting:
            smallest = min(plans.values(), key=lambda p: p.bytes)
            raise DoesNotFit(
                f"no level fits {spec.budget}",
                why=f"the smallest, {smallest.level}, is {smallest.bytes / 1e9:.2f} GB",
                hint="add a smaller level such as IQ3_XXS or Q2_K, or start from a smaller model",
            )
        plans = fitting
    disk = os.statvfs(ctx.work_dir)
    free, need = disk.f_bavail * disk.f_frsize, sum(p.bytes for p in plans.values())
    if need + (128 << 20) > free:
        raise OutOfSpace(
            "no room for the levels",
            why=f"they take {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            hint="name fewer levels, or free space",
        )
    return plans


def settings_of(spec: QuantizeSpec, level: str, threads: int, importance: Any) -> Settings:
    """The quantizer's settings of one level of the recipe."""
    from recipes.gguf.quantizer import Settings

    found = LEVELS[level]
    options = spec.options
    return Settings(
        level=found,
        threads=threads,
        importance=importance if found.gains_imatrix else None,
        overrides=spec.overrides,
        output_type=options.get("output_tensor_type"),
        embedding_type=options.get("token_embedding_type"),
        pure=bool(options.get("pure", False)),
    )


def make_rung(
    ctx: StepContext,
    spec: QuantizeSpec,
    level: str,
    unquantized: Path,
    bench: Bench,
    importance: Any,
    progress: Callable[[str, float], None],
) -> Rung:
    """Quantize, measure and prove one level; reuses what an earlier attempt finished.

    Raises:
        BadInput: llama.cpp refused, or the proof failed.
    """
    import time

    folder = ctx.work_dir / "levels"
    folder.mkdir(exist_ok=True)
    record = folder / f"{level}.json"
    if (done := load_rung(record, folder)) is not None:
        return done
    began = time.monotonic()
    path = folder / f"{level}.gguf"
    settings = settings_of(spec, level, ctx.threads, importance)
    fallbacks = _quantize(ctx, unquantized, path, settings, progress)
    took = time.monotonic() - began
    measured, proof, memory = _measure(ctx, path, bench, level, progress)
    require(proof, level)
    size = path.stat().st_size
    rung = Rung(
        level,
        path,
        size,
        8 * size / bench.parameters,
        {m.text: m for m in measured},
        proof.to_json(),
        proof.tokens_per_s,
        memory,
        took,
        fallbacks,
        {
            "importance": importance is not None and settings.level.gains_imatrix,
            "overrides": dict(spec.overrides),
            **{k: v for k, v in spec.options.items()},
        },
    )
    save_json(record, rung.to_json())
    return rung


def _quantize(
    ctx: StepContext,
    unquantized: Path,
    path: Path,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> tuple[str, ...]:
    from recipes.gguf.quantizer import quantize

    name = settings.level.name
    ctx.phase(f"quantizing to {name}")
    try:
        return quantize(
            unquantized,
            path,
            settings,
            progress=lambda done, total: progress(name, 0.5 * done / max(total, 1)),
            should_stop=lambda: ctx.should_stop,
        )
    except InterruptedError:
        ctx.raise_stopped()
        raise


def _measure(
    ctx: StepContext,
    path: Path,
    bench: Bench,
    level: str,
    progress: Callable[[str, float], None],
) -> tuple[list[Measured], Proof, int]:
    from recipes.gguf.runtime import GgufModel

    def check_stop() -> None:
        if ctx.should_stop:
            ctx.raise_stopped()

    ctx.phase(f"measuring {level}")
    layers = -1 if ctx.device == "cuda" else 0
    context = max(len(w) for r in bench.references for w in r.windows.windows)
    measured = []
    total = sum(r.windows.predicted for r in bench.references)
    before = 0
    with GgufModel(path, context=context, threads=ctx.threads, gpu_layers=layers) as model:
        if model.n_vocab < bench.references[0].n_vocab:
            raise BadInput(f"{path.name} has {model.n_vocab} token entries, the source has more")
        for reference in bench.references:
            shift = before

            def tell(done: int, _of: int, shift: int = shift) -> None:
                progress(level, 0.5 + 0.5 * (shift + done) / total)

            measured.append(reference.measure(model, tell, check_stop))
            before += reference.windows.predicted
        memory = model.memory_bytes
    proof = prove_gguf(
        path,
        bench.answers,
        bench.tokenizer,
        stops=bench.stops,
        noise=measured[0].noise,
        threads=ctx.threads,
        gpu_layers=layers,
        check_stop=check_stop,
    )
    return measured, proof, memory
