"""Does it fit? Memory by part before step 1, the largest batch or length that does, disk, time.

Everything is computed from the files' headers and ``config.json``: no torch. The parts follow the
tensors that autograd really keeps for a Llama-like decoder; see docs/finetune.md for how far the
numbers were from measured peaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.data.formats import read_examples
from engine.data.rows import read_rows
from engine.data.source import resolve_data
from engine.errors import DoesNotFit
from engine.models import ModelLocation, model_config, resolve_model
from engine.paths import StatePaths
from engine.types.system import Estimate, EstimateContext
from recipes.finetune.schema import ADAPTER_METHODS, FinetuneSpec
from recipes.finetune.weights import tensor_shapes
from recipes.loading.gguf_header import read_gguf_header
from recipes.loading.precision import cpu_has_bf16

_WITH_ADAPTER = ADAPTER_METHODS | {"dpo", "kto", "orpo", "grpo"}
#: Python, torch, transformers and peft resident on a CPU; the CUDA context on a GPU.
_RUNTIME = {"cpu": 620 << 20, "cuda": 600 << 20}
_OPTIMIZER_BYTES = {
    "adamw": 8.0,
    "adamw-8bit": 2.1,
    "adamw-paged-8bit": 2.1,
    "lion-8bit": 1.05,
    "adafactor": 0.1,
    "sgd": 0.0,
}
#: Measured over counted activation bytes on a CPU, by bytes a number: allocator and buffers.
_ACTIVATION_FACTOR = {2: 0.8, 4: 1.25}
#: Bytes per token and vocabulary entry around the loss.
_LOGIT_BYTES = 20
#: Safety over the sum: an estimate may be too high, never much too low.
_MARGIN = 1.03
_MEASURED_ROWS = 5000


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
    adapters = spec.train.method in _WITH_ADAPTER
    tokens = batch * length
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
        "activations": int(
            tokens * _activation_bytes(spec, shape, width) * _ACTIVATION_FACTOR[width]
        ),
        # logits, their fp32 copy, the log-softmax, its gradient and theirs
        "logits": int(tokens * shape.vocabulary * _LOGIT_BYTES),
        "runtime": _RUNTIME[device],
    }
    if not adapters and bf16:
        # autocast keeps the cast copies of fp32 weights for the backward pass
        found["weights"] += shape.linear * 2
    return found


def _activation_bytes(spec: FinetuneSpec, shape: Shape, width: int) -> float:
    """Bytes that autograd keeps per token.

    Per layer of a Llama-like block: two norms' inputs (fp32 inside), the inputs of q/k/v, the
    rotated q and k, v, the attention's output, the gated product's three inputs, and the down
    projection's input; an adapter keeps its input's low-rank image besides.
    """
    hidden, inner, kv = shape.hidden, shape.intermediate, shape.kv_width
    norms = 2 * hidden * (4 + width)
    attention = (hidden * 4 + kv * 4) * width
    mlp = (hidden + 4 * inner) * width
    adapter = 7 * spec.train.rank * 4 if spec.train.method in _WITH_ADAPTER else 0
    per_layer = norms + attention + mlp + adapter
    if spec.train.checkpointing:
        # the inputs of every layer, and one layer's own at a time
        return shape.layers * hidden * width + per_layer
    return float(shape.layers * per_layer)


def disk_bytes(spec: FinetuneSpec, location: ModelLocation) -> int:
    """Disk at the end of the run: two checkpoints and one being written, the result, the base."""
    shapes = tensor_shapes(location)
    total = sum(math.prod(shape) for shape in shapes.values())
    if spec.train.method in _WITH_ADAPTER:
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
    """Memory by part, disk and notes for one step, before it starts."""
    location = resolve_model(spec.base, context.paths)
    shape = read_shape(location)
    device = device_of(context.device)
    bf16 = computes_in_bf16(spec, device)
    length = expected_length(spec, context.paths)
    batch = spec.train.batch if spec.train.batch != "auto" else 1
    found = parts(spec, shape, batch=batch, length=length, device=device, bf16=bf16)
    return Estimate(
        memory_bytes=int(sum(found.values()) * _MARGIN),
        disk_bytes=disk_bytes(spec, location),
        parts=found,
        notes=(f"batch {batch} x {length} tokens, {'bf16' if bf16 else 'fp32'} on {device}",),
    )


def expected_length(spec: FinetuneSpec, paths: StatePaths) -> int:
    """Tokens of the longest sequence: ``max_length``, or less where the rows are shorter.

    Rows are measured in characters (at least 2.5 a token in the languages and code seen) with 16
    tokens a turn for the template; only the first rows of a big file are looked at.
    """
    limit = spec.data.max_length if spec.data.max_length != "auto" else 1024
    if spec.train.packing or spec.train.method == "pretrain" or "${" in spec.data.train:
        return limit
    location = resolve_data(spec.data.train, paths)
    rows = islice(read_rows(location.path, location.version), _MEASURED_ROWS)
    longest = 0.0
    for example in read_examples(rows, spec.data.format, spec.data.columns, location.name):
        turns = len(example.messages) + 2
        longest = max(longest, len(example.plain()) / 2.5 + 16 * turns)
    return max(16, min(limit, math.ceil(longest)))


def solve(
    spec: FinetuneSpec, paths: StatePaths, device: str, available: int | None = None
) -> tuple[int, int]:
    """The largest ``(max_length, batch)`` that fits where the recipe says ``auto``.

    Length is solved first (at batch 1), then the batch for that length; both are powers of two up
    to 8192 tokens and 64 rows.

    Raises:
        DoesNotFit: not even one row of 64 tokens fits.
    """
    shape = read_shape(resolve_model(spec.base, paths))
    bf16 = computes_in_bf16(spec, device)
    memory = available if available is not None else available_memory(device)

    def fits(batch: int, length: int) -> bool:
        found = parts(spec, shape, batch=batch, length=length, device=device, bf16=bf16)
        return sum(found.values()) * _MARGIN <= memory * 0.9

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
