"""Does it fit? Memory by part before step 1, the largest batch or length that does, disk, time.

Everything is computed from the files' headers and ``config.json``: no torch. The parts follow the
tensors that autograd really keeps for a Llama-like decoder; see docs/finetune.md for how far the
numbers were from measured peaks.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from engine.errors import DoesNotFit
from engine.models import ModelLocation, model_config, resolve_model
from engine.paths import StatePaths
from engine.types.system import Estimate, EstimateContext
from recipes.finetune.attention import SHORT_ROW
from recipes.finetune.calibration import (
    Finished,
    finished_runs,
    memory_correction,
)
from recipes.finetune.duration import row_tokens, run_seconds
from recipes.finetune.fused import chunk_tokens
from recipes.finetune.schema import PREFERENCE_METHODS, WITH_ADAPTER, FinetuneSpec
from recipes.finetune.weights import tensor_shapes
from recipes.loading.base import cache_folder
from recipes.loading.gguf_header import read_gguf_header
from recipes.loading.precision import cpu_has_bf16

#: Python, torch, transformers and peft resident on a CPU; the CUDA context on a GPU (torch's own
#: counters leave that out).
_RUNTIME = {"cpu": 580 << 20, "cuda": 600 << 20}
_OPTIMIZER_BYTES = {
    "adamw": 8.0,
    "adamw-8bit": 2.1,
    "adamw-paged-8bit": 2.1,
    "lion-8bit": 1.05,
    "adafactor": 0.1,
    "sgd": 0.0,
}
#: What lies free between kept tensors and can't be filled again: glibc's ``memalign`` never takes a
#: hole of just the size it needs. In numbers of the intermediate width a token and layer; measured.
_HOLES = {"fused": 1.8, "plain": 4.0, "qlora": 4.8, "checkpointing": 1.2}
#: What oneDNN's two-byte products and the heap grow by while batches of other lengths come and go,
#: in parts of what they keep, and the steps it takes to. Measured over 100 steps: 0.70 at batch 4,
#: 0.49 at batch 8; with four-byte products nothing at batch 2 and 4.
_HEAP, _MANY_STEPS = 0.55, 16
#: bitsandbytes itself, and what quantizing the weights leaves behind on a CPU.
_FOUR_BIT_RUNTIME = 140 << 20
#: Bytes per token and vocabulary entry around a loss that is computed at once.
_LOGIT_BYTES = 20
#: Copies of one chunk of logits: fp32, and what goes back in the type of the products.
_CHUNK_COPIES = 2.5
#: Safety over the sum: an estimate may be too high, never much too low.
_MARGIN = 1.03
#: Unpacking a GGUF: fp32, bf16 and transformers' own copies; libraries without peft.
_UNPACKING_BYTES, _UNPACKING_RUNTIME = 9, 510 << 20
#: Merging: the base in fp32 and the result in bf16, beside the model that was trained.
_MERGING_BYTES = 6
#: Sequences a row of preferences becomes at once: chosen and rejected, or a pair for the KL term.
_SEQUENCES = {"dpo": 2, "orpo": 2, "kto": 2}


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that decide its memory."""

    parameters: int
    linear: int
    """Parameters in linear layers that an adapter (or 4 bits) applies to."""
    embedding: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_width: int
    vocabulary: int
    adapter_rows: int
    """Sum over the linear layers of (inputs + outputs): LoRA parameters per rank."""


def read_shape(location: ModelLocation) -> Shape:
    """The model's numbers, from its files' headers."""
    shapes = tensor_shapes(location)
    config = model_config(location) or _gguf_config(location)
    hidden = int(config["hidden_size"])
    heads = int(config.get("num_attention_heads") or 1)
    head_dim = int(config.get("head_dim") or hidden // heads)
    vocabulary = int(config["vocab_size"])
    linear = adapter_rows = embedding = total = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        total += count
        if len(shape) == 2 and vocabulary in shape:
            embedding += count
        elif len(shape) == 2 and name.endswith(".weight"):
            linear += count
            adapter_rows += sum(shape)
    return Shape(
        parameters=total,
        linear=linear,
        embedding=embedding,
        hidden=hidden,
        intermediate=int(config.get("intermediate_size") or 4 * hidden),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_width=int(config.get("num_key_value_heads") or heads) * head_dim,
        vocabulary=vocabulary,
        adapter_rows=adapter_rows,
    )


def _gguf_config(location: ModelLocation) -> dict[str, Any]:
    metadata = read_gguf_header(location.root.path).metadata
    arch = metadata["general.architecture"]
    names = {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
    }
    found = {key: metadata.get(f"{arch}.{name}") for key, name in names.items()}
    return {**found, "vocab_size": metadata["tokenizer.ggml.tokens"]}


def parts(
    spec: FinetuneSpec, shape: Shape, *, batch: int, length: int, device: str, bf16: bool
) -> dict[str, int]:
    """Memory by part, in bytes, at the peak of a training step.

    Args:
        spec: the recipe (method, rank, optimizer, checkpointing).
        shape: the model's numbers.
        batch: sequences at once.
        length: tokens per sequence.
        device: ``cpu`` or ``cuda``.
        bf16: products are computed in two bytes.
    """
    width = 2 if bf16 else 4
    # see recipes.finetune.attention
    short = spec.train.packing or length <= SHORT_ROW
    attended = 4 if device == "cpu" and short else width
    adapters = spec.train.method in WITH_ADAPTER
    tokens = batch * length * _SEQUENCES.get(spec.train.method, 1)
    trainable = shape.adapter_rows * spec.train.rank if adapters else shape.parameters
    rest = shape.parameters - shape.linear
    if spec.train.method == "qlora":
        # nf4: half a byte and, double quantized, 0.127 bits of constants per weight
        weights = shape.linear * (0.5 + 0.127 / 8) + rest * width
    elif adapters:
        weights = shape.parameters * float(width)
    else:
        weights = shape.parameters * 4.0
    found = {
        "weights": int(weights),
        "adapters": trainable * 4 if adapters else 0,
        "gradients": trainable * 4,
        "optimizer": int(trainable * _OPTIMIZER_BYTES[spec.train.optimizer]),
        "activations": _activation_bytes(spec, shape, width, tokens, attended),
        "logits": _logit_bytes(spec, shape, tokens, device),
        "runtime": _RUNTIME[device],
    }
    if device == "cpu":
        found["runtime"] += _FOUR_BIT_RUNTIME if spec.train.method == "qlora" else 0
        holes = tokens * shape.layers * _holes(spec, shape, width)
        # the optimizer's numbers are made after the first backward pass: they fill holes
        found["activations"] += max(int(holes) - found["optimizer"], 0)
        many = (spec.train.max_steps or _MANY_STEPS) >= _MANY_STEPS
        if bf16 and many and not spec.train.packing:
            found["heap"] = int(_HEAP * (found["activations"] + found["logits"]))
    if not adapters and bf16:
        # autocast keeps the cast copies of fp32 weights for the backward pass
        found["weights"] += shape.linear * 2
    return found


def is_fused(spec: FinetuneSpec) -> bool:
    """Whether the run goes through ``recipes.finetune.fused``."""
    return spec.train.kernels == "auto" and not spec.train.compile


def _logit_bytes(spec: FinetuneSpec, shape: Shape, tokens: int, device: str) -> int:
    """One chunk's logits; all of them, with what autograd keeps, where the loss is the library's.

    Whole: logits, their fp32 copy, the log-softmax, its gradient and theirs.
    """
    whole = tokens * shape.vocabulary * _LOGIT_BYTES
    if spec.train.method in PREFERENCE_METHODS or not is_fused(spec):
        return whole
    chunk = min(chunk_tokens(shape.vocabulary, device), tokens)
    gradient = 0 if spec.train.method in WITH_ADAPTER else shape.hidden * shape.vocabulary * 4
    # the projection's weights: oneDNN's reordered copy, or autocast's in two bytes
    copied = device == "cpu" or spec.train.method not in WITH_ADAPTER
    copy = shape.hidden * shape.vocabulary * 2 if copied else 0
    return int(chunk * shape.vocabulary * 4 * _CHUNK_COPIES) + gradient + copy


def _activation_bytes(
    spec: FinetuneSpec, shape: Shape, width: int, tokens: int, attended: int
) -> int:
    """Bytes that autograd keeps for a batch of ``tokens`` until its backward pass.

    Args:
        spec: the recipe.
        shape: the model's numbers.
        width: bytes a number that products are computed in.
        tokens: of the batch.
        attended: bytes a number in attention.
    """
    per_layer = _layer_bytes(spec, shape, width, attended)
    constant = 0.0
    if spec.train.method == "dora":
        # PEFT sends an identity matrix through each adapter to get its product
        inputs = 6 * shape.hidden**2 + shape.intermediate**2
        constant += shape.layers * inputs * width
    if spec.train.method in WITH_ADAPTER and width == 2:
        # the adapters' matrices as they are multiplied
        constant += shape.adapter_rows * spec.train.rank * width
    if spec.train.checkpointing:
        # the inputs of every layer, and one layer's own at a time
        return int(tokens * (shape.layers * shape.hidden * width + per_layer) + constant)
    return int(tokens * shape.layers * per_layer + constant)


def _layer_bytes(spec: FinetuneSpec, shape: Shape, width: int, attended: int) -> float:
    """Bytes a token that one Llama-like block keeps, tensor by tensor.

    As ``torch.autograd.graph.saved_tensors_hooks`` counts them (a test does). ``h``, ``i`` and
    ``kv`` are the hidden, intermediate and key widths.
    """
    h, i, kv = shape.hidden, shape.intermediate, shape.kv_width
    method, rank = spec.train.method, spec.train.rank
    adapters = method in WITH_ADAPTER
    # two norms: their inputs in fp32; where their weights learn, the normed ones besides
    kept = (2 if adapters else 4) * h * 4.0
    # queries, keys and values, the output and one number a head
    kept += (2 * h + 2 * kv) * attended + shape.heads * 4
    own_output = attended == width and not (spec.train.packing or spec.train.padding_free)
    if method == "dora":
        # each linear layer's input and its three results
        kept += (12 * h + 7 * i + 4 * kv) * width
    elif adapters and spec.train.dropout > 0:
        # what was dropped, and what is left, of every linear layer's input
        kept += (12 * h + 4 * i) * width
    elif width == 2 and not adapters:
        # hidden states are fp32: autocast casts a linear layer's input for that layer alone
        kept += (6 * h + 3 * i) * 2
    else:
        kept += 3 * h * width + 3 * i * width
        # the output is the next layer's input
        kept -= h * width if own_output else 0
    if spec.train.kernels == "plain" or spec.train.compile:
        # the activated gate
        kept += i * width
    return kept + (7 * rank * width if adapters else 0)


def _holes(spec: FinetuneSpec, shape: Shape, width: int) -> float:
    """Bytes a token and layer that the C allocator holds beside what is kept (see ``_HOLES``)."""
    kind = "fused"
    if spec.train.checkpointing:
        kind = "checkpointing"
    elif spec.train.method == "qlora":
        kind = "qlora"
    elif not is_fused(spec) or spec.train.method == "dora" or spec.train.dropout > 0:
        kind = "plain"
    return _HOLES[kind] * shape.intermediate * width


def disk_bytes(spec: FinetuneSpec, location: ModelLocation) -> int:
    """Disk at the end of the run: two checkpoints and one being written, the result, the base."""
    shapes = tensor_shapes(location)
    total = sum(math.prod(shape) for shape in shapes.values())
    if spec.train.method in WITH_ADAPTER:
        rows = sum(sum(s) for n, s in shapes.items() if len(s) == 2 and "embed" not in n)
        trainable = rows * spec.train.rank
    else:
        trainable = total
    per_checkpoint = trainable * (4 + _OPTIMIZER_BYTES[spec.train.optimizer])
    merged = total * 2 if spec.train.merge else 0
    base = total * 4 if location.root.manifest is None else 0
    return int(3 * per_checkpoint + 2 * trainable * 4 + merged + base) + (64 << 20)


def device_of(wanted: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu``, ``gpu`` or a UUID, by the driver's own word."""
    if wanted in ("cpu", "cuda"):
        return wanted
    from engine.devices.probe import has_gpu

    return "cuda" if has_gpu() else "cpu"


def computes_in_bf16(spec: FinetuneSpec, device: str) -> bool:
    """Whether products take two bytes."""
    wanted = spec.train.precision
    if wanted in ("bf16", "fp16"):
        return True
    return wanted == "auto" and (device != "cpu" or cpu_has_bf16())


def estimate(spec: FinetuneSpec, context: EstimateContext) -> Estimate:
    """Memory by part, disk, time and notes for one step, before it starts."""
    location = resolve_model(spec.base, context.paths)
    shape = read_shape(location)
    device = device_of(context.device)
    bf16 = computes_in_bf16(spec, device)
    rows = row_tokens(spec, context.paths)
    batch = spec.train.batch if spec.train.batch != "auto" else 1
    found = parts(spec, shape, batch=batch, length=rows.longest, device=device, bf16=bf16)
    like = likeness(spec, location, device, bf16, batch * rows.longest, sum(found.values()))
    runs = finished_runs(context.paths)
    factor, count = memory_correction(runs, like)
    needed = int(sum(found.values()) * (factor if count else _MARGIN))
    notes = [f"batch {batch} x {rows.longest} tokens, {'bf16' if bf16 else 'fp32'} on {device}"]
    if count:
        notes.append(f"memory corrected by the peaks of {count} past run(s): x {factor:.2f}")
    unpacking = unpacking_bytes(location, context.paths)
    if spec.train.merge:
        merging = found["runtime"] + found["weights"] + _MERGING_BYTES * shape.parameters
        if merging > needed:
            needed = merging
            notes.append("the peak is the merging after training")
    if unpacking > needed:
        notes.append("the peak is the base's first unpacking; later runs need less")
    seconds = run_seconds(spec, shape, rows, like, runs, context.paths)
    return Estimate(
        memory_bytes=max(needed, unpacking),
        disk_bytes=disk_bytes(spec, location),
        seconds=seconds,
        parts=found,
        notes=tuple(notes),
    )


def likeness(
    spec: FinetuneSpec,
    location: ModelLocation,
    device: str,
    bf16: bool,
    tokens: int,
    estimated: int,
) -> Finished:
    """What past runs are compared with; its own peak and speed are not known yet."""
    return Finished(
        method=spec.train.method,
        base=location.root.name,
        device=device,
        precision="bf16" if bf16 else "fp32",
        threads=spec.resources.threads or usable_cores(),
        checkpointing=spec.train.checkpointing,
        tokens=tokens,
        estimated=estimated,
        peak=0,
        tokens_per_s=0.0,
        steps=0,
    )


def usable_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def unpacking_bytes(location: ModelLocation, paths: StatePaths) -> int:
    """Peak memory of unpacking a GGUF base that was never unpacked here; 0: nothing to do."""
    if location.root.kind != "gguf" or cache_folder(location.root, paths).is_dir():
        return 0
    total = sum(math.prod(shape) for shape in tensor_shapes(location).values())
    return _UNPACKING_RUNTIME + _UNPACKING_BYTES * total


def solve(
    spec: FinetuneSpec, paths: StatePaths, device: str, available: int | None = None
) -> tuple[int, int]:
    """The largest ``(max_length, batch)`` that fits where the recipe says ``auto``.

    Length is solved first (at batch 1), then the batch for that length; both are powers of two up
    to 8192 tokens and 64 rows.

    Raises:
        DoesNotFit: not even one row of 64 tokens fits.
    """
    location = resolve_model(spec.base, paths)
    shape = read_shape(location)
    bf16 = computes_in_bf16(spec, device)
    runs = finished_runs(paths)
    memory = available if available is not None else available_memory(device)

    def fits(batch: int, length: int) -> bool:
        found = parts(spec, shape, batch=batch, length=length, device=device, bf16=bf16)
        whole = sum(found.values())
        like = likeness(spec, location, device, bf16, batch * length, whole)
        factor, count = memory_correction(runs, like)
        return whole * max(factor if count else _MARGIN, 1.0) <= memory * 0.9

    wanted, rows = spec.data.max_length, spec.train.batch
    if wanted == "auto":
        at_least = 1 if rows == "auto" else rows
        length = next((n for n in (8192 >> i for i in range(8)) if fits(at_least, n)), 0)
    else:
        length = wanted
    if rows == "auto":
        batch = next((n for n in (64 >> i for i in range(7)) if length and fits(n, length)), 0)
    else:
        batch = rows
    if not length or not batch or not fits(batch, length):
        raise DoesNotFit(
            "the run does not fit the memory, whatever the batch",
            why=f"{memory / 2**30:.1f} GiB are free on the {device}",
            hint='try method = "qlora", train.checkpointing = true, or a smaller base',
        )
    return length, batch


def available_memory(device: str) -> int:
    """Free bytes: of the GPU, or of the machine (and its control group)."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    from engine.devices.probe import ram

    return ram().free
