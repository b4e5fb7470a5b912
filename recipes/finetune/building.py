"""The model that is trained: base weights, adapters by method, gradients where they belong."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from engine.errors import BadInput, MissingPart
from engine.models import ModelLocation
from engine.paths import StatePaths
from recipes.finetune.attention import choose_attention
from recipes.finetune.fused import fuse_adapters, fuse_gated_products
from recipes.finetune.schema import WITH_ADAPTER, FinetuneSpec
from recipes.loading import Precision, load_causal_lm
from recipes.loading.quiet import quiet_libraries


def build_model(
    spec: FinetuneSpec,
    location: ModelLocation,
    precision: Precision,
    device: str,
    paths: StatePaths,
    place: str | None = None,
) -> Any:
    """Load the base and make it trainable by the recipe's method.

    Frozen weights are kept in the precision they are computed in; whatever is trained is fp32.

    Args:
        spec: the recipe.
        location: the base.
        precision: what products are computed in.
        device: what the model will train on: ``cpu`` or ``cuda``.
        paths: the state directory.
        place: where the weights are put, ``device`` where it is not given.

    Raises:
        BadInput: the targets match no module, or the base can't be loaded.
    """
    import torch

    adapters = spec.train.method in WITH_ADAPTER
    frozen = precision.compute_dtype if adapters else torch.float32
    model = load_causal_lm(
        location,
        frozen,
        place or device,
        paths=paths,
        quantization=_four_bit(precision) if spec.train.method == "qlora" else None,
        attention=choose_attention(spec.train.attention, lays_flat(spec), device),
    )
    # unpacking a packaged base draws random numbers, a base unpacked before does not: without this
    # the first run on a machine would begin with other adapters than every later one
    torch.manual_seed(spec.seed)
    model.config.use_cache = False
    if spec.train.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if spec.train.kernels == "liger":
        apply_liger(model, device)
    model = with_adapters(model, spec, precision) if adapters else model.float()
    if spec.train.kernels == "auto" and not spec.train.compile:
        # torch.compile fuses by itself
        fuse_gated_products(model)
        if adapters:
            fuse_adapters(model)
    return model


def lays_flat(spec: FinetuneSpec) -> bool:
    """Whether the recipe's batches are rows one behind the other."""
    return spec.train.packing or spec.train.padding_free


def apply_liger(model: Any, device: str) -> None:
    """Put Liger's Triton kernels (norms, rotary embedding, gated product) into ``model``.

    The loss stays ours: it is chunked as Liger's is, for learned tokens only.

    Raises:
        BadInput: on a CPU, or the model is of a kind Liger does not know.
        MissingPart: Liger is not installed.
    """
    if device == "cpu":
        raise BadInput(
            "Liger kernels need a GPU",
            why="they are written in Triton; this run is on the CPU",
            hint='leave train.kernels at "auto": our own fused steps run everywhere',
        )
    try:
        liger = import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        raise MissingPart(
            "Liger kernels are not installed",
            why=str(error),
            hint='pip install liger-kernel, or set train.kernels = "auto"',
        ) from error
    if model.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise BadInput(
            f"Liger has no kernels for {model.config.model_type!r} models",
            hint='set train.kernels = "auto"',
        )
    liger._apply_liger_kernel_to_instance(
        model, cross_entropy=False, fused_linear_cross_entropy=False
    )


def with_adapters(model: Any, spec: FinetuneSpec, precision: Precision) -> Any:
    """Put fresh LoRA (or DoRA) adapters on ``model``; everything else is frozen."""
    import torch

    check_targets(model, spec.train.targets)
    with quiet_libraries():
        from peft import LoraConfig, get_peft_model

        # not PEFT's prepare_model_for_kbit_training: it turns everything that is not in 4 bits to
        # fp32, and with it the embeddings and every hidden state
        if spec.train.checkpointing:
            model.enable_input_require_grads()
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.train.rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.train.dropout,
            target_modules=spec.train.targets,
            use_dora=spec.train.method == "dora",
            bias="none",
        )
        wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    if precision.autocast and spec.train.method in ("lora", "qlora"):
        for module in wrapped.modules():
            if hasattr(module, "lora_A"):
                # autocast casts the adapter's weights once; PEFT would copy every input to fp32
                module.cast_input_dtype_enabled = False
    return wrapped


def _four_bit(precision: Precision) -> Any:
    with quiet_libraries():
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.compute_dtype,
        )


def linear_modules(model: Any) -> list[str]:
    """Names of the linear layers that can get an adapter, last part only, without the head."""
    import torch

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return sorted(name for name in names if not name.isdigit())


def check_targets(model: Any, targets: list[str] | str) -> None:
    """Refuse adapter targets that match no module.

    Raises:
        BadInput: with the modules that exist.
    """
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        pattern = re.compile(rf"(.*\.)?{re.escape(target)}")
        if not any(pattern.fullmatch(name) for name in names):
            raise BadInput(
                f"train.targets: no module is called {target!r}",
                why=f"linear modules of this model: {', '.join(linear_modules(model))}",
                hint='name some of them, or set targets = "all-linear"',
            )


def trainable_parameters(model: Any) -> tuple[int, int]:
    """``(trainable, all)`` parameter counts (a 4-bit weight counts its two numbers per byte)."""
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel() * (2 if parameter.__class__.__name__ == "Params4bit" else 1)
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
