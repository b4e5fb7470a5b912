"""The training step's hot spots with their backward passes written out: less memory, fewer passes.

Autograd stores and re-reads a temporary for every small operation. Three places matter for a
Llama-like decoder with adapters, and each is one ``torch.autograd.Function`` here, in plain torch
operations, so that they run wherever torch does:

- a linear layer with LoRA: ``x W' + s (x A') B'`` summed in place (Hu et al. 2021; the same sums as
  PEFT's, without its scaled and added temporaries),
- the vocabulary projection with its cross entropy, in chunks of tokens: the logits of the whole
  batch never exist (as in Liger's fused linear cross entropy, Hsu et al. 2024),
- the gated product ``silu(gate) * up``, which keeps its two inputs and nothing else.

``tests/recipes/finetune/test_fused.py`` holds values and gradients against autograd's own.
"""

from __future__ import annotations

import types
from typing import Any

#: Bytes of fp32 logits that exist at once: near a CPU's last cache; enough to fill a GPU.
LOGIT_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 256 << 20}
_MIN_CHUNK_TOKENS = 32
#: Feed-forward blocks that are exactly ``down(act(gate(x)) * up(x))``.
_GATED_BLOCKS = frozenset(
    {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP", "Olmo2MLP", "StableLmMLP"}
)
_functions: dict[str, Any] = {}


def _function(name: str) -> Any:
    """An autograd function by name; made on first use, because torch is imported then."""
    if name not in _functions:
        _functions[name] = {"lora": _lora, "loss": _loss, "gated": _gated}[name]()
    return _functions[name]


def _lora() -> Any:
    import torch
    from torch.autograd import Function

    class LoraLinear(Function):
        @staticmethod
        def forward(
            ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float
        ) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            a_here, b_here = a.to(flat.dtype), b.to(flat.dtype)
            low = flat @ a_here.t()
            out = torch.nn.functional.linear(flat, weight, bias)
            out.addmm_(low, b_here.t(), alpha=scaling)
            ctx.save_for_backward(flat, weight, a_here, b_here, low)
            ctx.scaling, ctx.types = scaling, (a.dtype, b.dtype)
            return out.view(*x.shape[:-1], out.shape[-1])

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            flat, weight, a, b, low = ctx.saved_tensors
            flat_grad = grad.reshape(-1, grad.shape[-1])
            if flat_grad.dtype != flat.dtype:
                flat_grad = flat_grad.to(flat.dtype)
            low_grad = (flat_grad @ b).mul_(ctx.scaling)
            grad_b = (flat_grad.t() @ low).mul_(ctx.scaling).to(ctx.types[1])
            grad_a = (low_grad.t() @ flat).to(ctx.types[0])
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = (flat_grad @ weight).addmm_(low_grad, a)
                grad_x = grad_x.view(*grad.shape[:-1], grad_x.shape[-1])
            return grad_x, None, None, grad_a, grad_b, None

    return LoraLinear


def _loss() -> Any:
    import torch
    from torch.autograd import Function

    class LinearCrossEntropy(Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
            wants = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
            total = hidden.new_zeros((), dtype=torch.float32)
            grad_hidden = torch.empty_like(hidden) if wants else None
            grad_weight = (
                torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
            )
            device = hidden.device.type
            product = hidden.dtype
            if torch.is_autocast_enabled(device):
                product = torch.get_autocast_dtype(device)
            # cast once: autocast would cast the matrix again for every chunk
            matrix = weight.to(product)
            step = chunk_tokens(weight.shape[0], device)
            for start in range(0, hidden.shape[0], step):
                part = hidden[start : start + step].to(product)
                wanted = targets[start : start + step, None]
                logits = (part @ matrix.t()).float()
                peak = logits.amax(dim=1, keepdim=True)
                chosen = logits.gather(1, wanted) - peak
                logits.sub_(peak).exp_()
                norm = logits.sum(dim=1, keepdim=True)
                total += (norm.log() - chosen).sum()
                if grad_hidden is None:
                    continue
                # softmax minus one-hot
                logits.div_(norm).scatter_add_(1, wanted, torch.full_like(norm, -1.0))
                flow = logits.to(product)
                grad_hidden[start : start + step] = flow @ matrix
                if grad_weight is not None:
                    grad_weight += (flow.t() @ part).float()
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_type = weight.dtype
            return total

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            grad_hidden, grad_weight = ctx.saved_tensors
            found_weight = None
            if grad_weight is not None:
                found_weight = grad_weight.mul_(grad).to(ctx.weight_type)
            return grad_hidden.mul_(grad.to(grad_hidden.dtype)), found_weight, None

    return LinearCrossEntropy


def _gated() -> Any:
    import torch
    from torch.autograd import Function

    class GatedProduct(Function):
        @staticmethod
        def forward(ctx: Any, gate: Any, up: Any) -> Any:
            ctx.save_for_backward(gate, up)
            return torch.nn.functional.silu(gate).mul_(up)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            gate, up = ctx.saved_tensors
            activated = torch.nn.functional.silu(gate)
            grad_up = activated.mul_(grad)
            grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
            return grad_gate, grad_up

    return GatedProduct


def chunk_tokens(vocabulary: int, device: str = "cpu") -> int:
    """Tokens of one chunk: as many as have ``LOGIT_CHUNK_BYTES`` of fp32 logits, at least 32."""
    return max(_MIN_CHUNK_TOKENS, LOGIT_CHUNK_BYTES.get(device, 256 << 20) // (4 * vocabulary))


def linear_cross_entropy(hidden: Any, weight: Any, targets: Any) -> Any:
    """Summed cross entropy of ``hidden @ weight'`` against ``targets``.

    Args:
        hidden: shape (tokens, width), in the type that products are computed in.
        weight: the vocabulary projection, shape (vocabulary, width).
        targets: token ids, shape (tokens,).

    Returns:
        A scalar in fp32; its gradient reaches ``hidden`` and, where it is trained, ``weight``.
    """
    return _function("loss").apply(hidden, weight, targets)


def fuse_adapters(model: Any) -> int:
    """Let the plain LoRA layers of a PEFT model run through ``LoraLinear``; how many do.

    A layer that does more than the formula (dropout, DoRA, a quantized base, several adapters, a
    trained bias) keeps PEFT's own forward. So does any layer for as long as its adapters are off
    or merged: the reference model of DPO and generation with the base alone see no difference.
    """
    import torch
    from peft.tuners.lora.layer import Linear

    changed = 0
    for module in model.modules():
        if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear:
            continue
        names = list(module.lora_A)
        if len(names) != 1 or module.use_dora.get(names[0]) or module.lora_bias.get(names[0]):
            continue
        if not isinstance(module.lora_dropout[names[0]], torch.nn.Identity):
            continue
        if any(p.requires_grad for p in module.base_layer.parameters()):
            continue
        module.forward = types.MethodType(_fused_forward, module)
        changed += 1
    return changed


def _fused_forward(module: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    base = module.base_layer
    active = module.active_adapters
    if module.disable_adapters or module.merged or len(active) != 1 or args or kwargs:
        return type(module).forward(module, x, *args, **kwargs)
    name = active[0]
    if name not in module.lora_A:
        return type(module).forward(module, x)
    if x.dtype != base.weight.dtype:
        x = x.to(base.weight.dtype)
    return _function("lora").apply(
        x,
        base.weight,
        base.bias,
        module.lora_A[name].weight,
        module.lora_B[name].weight,
        module.scaling[name],
    )


def fuse_gated_products(model: Any) -> int:
    """Let Llama-like feed-forward blocks compute ``silu(gate) * up`` in one step; how many do."""
    import torch

    changed = 0
    for module in model.modules():
        if type(module).__name__ not in _GATED_BLOCKS:
            continue
        if (
            not isinstance(module.act_fn, torch.nn.SiLU)
            and "SiLU" not in type(module.act_fn).__name__
        ):
            continue
        module.forward = types.MethodType(_gated_forward, module)
        changed += 1
    return changed


def _gated_forward(module: Any, x: Any) -> Any:
    gated = _function("gated").apply(module.gate_proj(x), module.up_proj(x))
    return module.down_proj(gated)
