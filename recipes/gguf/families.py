"""The model families our converter knows: their metadata and what happens to each tensor.

Names are mapped by the ``gguf`` package; this module adds what llama.cpp expects beyond names: the
rotary permutation of Llama, the ``1 +`` of Gemma's norms, the transposed matrices of GPT-2, and the
frequency factors of Llama 3 and Phi-3. The meaning of each key follows llama.cpp's own converter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import Refused

if TYPE_CHECKING:
    import gguf
    import numpy as np

    Array = np.ndarray[Any, Any]

Change = Callable[["Array"], "Array"]


@dataclass(frozen=True)
class ModelConfig:
    """``config.json`` with nested text configurations and both rope spellings made one."""

    values: Mapping[str, Any]
    rope: Mapping[str, Any]
    """Rope parameters of the global layers: rope_theta, rope_type, factor, ..."""
    local_rope_theta: float | None

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of ``names`` that is set."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return default

    def need(self, *names: str) -> Any:
        """Like ``get``, but a missing value is an error.

        Raises:
            Refused: none of the names is in ``config.json``.
        """
        value = self.get(*names)
        if value is None:
            raise Refused(f"config.json has no {names[0]}", why="the converter needs it")
        return value

    @property
    def heads(self) -> int:
        return int(self.need("num_attention_heads", "n_head"))

    @property
    def kv_heads(self) -> int:
        return int(self.get("num_key_value_heads", default=self.heads))

    @property
    def hidden(self) -> int:
        return int(self.need("hidden_size", "n_embd"))

    @property
    def head_dim(self) -> int:
        return int(self.get("head_dim", default=self.hidden // self.heads))

    @property
    def blocks(self) -> int:
        return int(self.need("num_hidden_layers", "n_layer"))


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """Flatten ``text_config`` and bring transformers 4 and 5 rope settings to one form."""
    values = {**config, **(config.get("text_config") or {})}
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    local = values.get("rope_local_base_freq")
    if "full_attention" in rope or "sliding_attention" in rope:
        local = (rope.get("sliding_attention") or {}).get("rope_theta", local)
        rope = dict(rope.get("full_attention") or {})
    if "rope_theta" not in rope and values.get("rope_theta") is not None:
        rope["rope_theta"] = values["rope_theta"]
    rope.setdefault("rope_type", rope.pop("type", "default"))
    if "original_max_position_embeddings" not in rope:
        original = values.get("original_max_position_embeddings")
        if original is not None:
            rope["original_max_position_embeddings"] = original
    return ModelConfig(values, rope, local)


@dataclass(frozen=True)
class Family:
    """One architecture of llama.cpp and the Hugging Face classes it stands for."""

    title: str
    arch: str
    """The name of the ``gguf.MODEL_ARCH`` member."""
    classes: tuple[str, ...]
    metadata: Callable[[gguf.GGUFWriter, ModelConfig], None]
    change: Callable[[str, ModelConfig], Change | None] = lambda _name, _config: None
    """What happens to the tensor of that Hugging Face name, as a function of its raw array."""
    shift: Callable[[str], float] = lambda _name: 0.0
    """Added to the values of that tensor (after conversion to F32)."""
    more: Callable[[gguf.GGUFWriter, ModelConfig], dict[str, Array]] = field(
        default=lambda _writer, _config: {}
    )
    activations: frozenset[str] = frozenset({"silu"})


# -- metadata --------------------------------------------------------------------------------------


def _basics(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_block_count(config.blocks)
    writer.add_context_length(int(config.need("max_position_embeddings", "n_positions", "n_ctx")))
    writer.add_embedding_length(config.hidden)
    writer.add_head_count(config.heads)
    if (inner := config.get("intermediate_size", "n_inner")) is not None:
        writer.add_feed_forward_length(int(inner))
    if config.get("num_key_value_heads") is not None:
        writer.add_head_count_kv(config.kv_heads)
    if (eps := config.get("rms_norm_eps")) is not None:
        writer.add_layer_norm_rms_eps(float(eps))
    if config.get("head_dim") is not None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)


def _rope(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    import gguf

    if (theta := config.rope.get("rope_theta")) is not None:
        writer.add_rope_freq_base(float(theta))
    kind, factor = str(config.rope["rope_type"]), config.rope.get("factor")
    if kind == "linear" and factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(factor))
    elif kind == "yarn" and factor is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(factor))
        original = config.rope.get("original_max_position_embeddings")
        writer.add_rope_scaling_orig_ctx_len(
            int(original or config.need("max_position_embeddings"))
        )
    elif kind in ("su", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    elif kind not in ("default", "llama3"):
        raise Refused(
            f"rope scaling {kind!r} can't be converted",
            why="llama.cpp has no equivalent that our converter knows",
        )


def _llama(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _basics(writer, config)
    _rope(writer, config)
    writer.add_vocab_size(int(config.need("vocab_size")))
    writer.add_rope_dimension_count(config.head_dim)


def _qwen(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _basics(writer, config)
    _rope(writer, config)


def _gemma(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _basics(writer, config)
    if config.get("head_dim") is None:
        writer.add_key_length(256)
        writer.add_value_length(256)


def _gemma2(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _gemma(writer, config)
    writer.add_attn_logit_softcapping(float(config.need("attn_logit_softcapping")))
    writer.add_final_logit_softcapping(float(config.need("final_logit_softcapping")))
    writer.add_sliding_window(int(config.need("sliding_window")))


def _gemma3(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _gemma(writer, config)
    _rope(writer, config)
    if config.local_rope_theta is not None:
        writer.add_rope_freq_base_swa(float(config.local_rope_theta))
    if (cap := config.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(float(cap))
    writer.add_sliding_window(int(config.need("sliding_window")))


def _phi3(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _basics(writer, config)
    writer.add_rope_scaling_orig_ctx_len(_phi3_original(config))
    writer.add_rope_dimension_count(_rotary_dims(config))
    writer.add_rope_freq_base(float(config.rope.get("rope_theta", 10000.0)))
    # llama.cpp tells Phi-4 from the other Phi-3 models by a window of zero
    writer.add_sliding_window(int(config.get("sliding_window", default=0)))


def _gpt2(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    _basics(writer, config)
    if config.get("n_inner", "intermediate_size") is None:
        writer.add_feed_forward_length(4 * config.hidden)
    writer.add_layer_norm_eps(float(config.need("layer_norm_epsilon")))


# -- tensors ---------------------------------------------------------------------------------------


def permute(weights: Array, heads: int) -> Array:
    """Rows from Hugging Face's half-split rotary order to llama.cpp's interleaved one.

    Args:
        weights: ``(heads * head_dim, in)`` of a query or key projection, or its bias.
        heads: number of heads in it.
    """
    rows = weights.shape[0]
    return (
        weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def _llama_change(name: str, config: ModelConfig) -> Change | None:
    if ".q_proj." in name:
        return lambda a: permute(a, config.heads)
    if ".k_proj." in name:
        return lambda a: permute(a, config.kv_heads)
    return None


def _gpt2_change(name: str, _config: ModelConfig) -> Change | None:
    # GPT-2's Conv1D keeps (in, out)
    if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return lambda a: a.T
    return None


def _gemma_shift(name: str) -> float:
    return 1.0 if name.endswith("norm.weight") else 0.0


def llama3_factors(config: ModelConfig) -> list[float]:
    """Frequency divisors of Llama 3.1's rope scaling, one for each pair of head dimensions."""
    rope, dim = config.rope, config.head_dim
    base = float(rope.get("rope_theta", 10000.0))
    factor = float(rope.get("factor", 8.0))
    low, high = float(rope.get("low_freq_factor", 1.0)), float(rope.get("high_freq_factor", 4.0))
    original = float(rope.get("original_max_position_embeddings", 8192))
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * base ** (i / dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _llama_extra(_writer: gguf.GGUFWriter, config: ModelConfig) -> dict[str, Array]:
    import numpy as np

    if config.rope["rope_type"] != "llama3":
        return {}
    return {"rope_freqs.weight": np.array(llama3_factors(config), np.float32)}


def _phi3_original(config: ModelConfig) -> int:
    original = config.rope.get("original_max_position_embeddings")
    return int(original or config.need("max_position_embeddings"))


def _rotary_dims(config: ModelConfig) -> int:
    partial = float(
        config.rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1)
    )
    return int(partial * config.hidden) // config.heads


def _phi3_extra(writer: gguf.GGUFWriter, config: ModelConfig) -> dict[str, Array]:
    import numpy as np

    long, short = config.rope.get("long_factor"), config.rope.get("short_factor")
    if not long or not short:
        return {}
    if len(long) != len(short) or len(long) != _rotary_dims(config) // 2:
        raise Refused(
            "the rope factors of config.json do not fit",
            why=f"{len(long)} long and {len(short)} short factors for {_rotary_dims(config)} "
            "rotary dimensions",
        )
    original = _phi3_original(config)
    scale = int(config.need("max_position_embeddings")) / original
    attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    writer.add_rope_scaling_attn_factors(attention)
    return {
        "rope_factors_long.weight": np.array(long, np.float32),
        "rope_factors_short.weight": np.array(short, np.float32),
    }


GELU = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu"})

FAMILIES: tuple[Family, ...] = (
    Family(
        "Llama (SmolLM, Mistral)",
        "LLAMA",
        ("LlamaForCausalLM", "MistralForCausalLM"),
        _llama,
        _llama_change,
        more=_llama_extra,
    ),
    Family("Qwen2", "QWEN2", ("Qwen2ForCausalLM",), _qwen),
    Family("Qwen3", "QWEN3", ("Qwen3ForCausalLM",), _qwen),
    Family("Gemma", "GEMMA", ("GemmaForCausalLM",), _gemma, shift=_gemma_shift, activations=GELU),
    Family(
        "Gemma 2", "GEMMA2", ("Gemma2ForCausalLM",), _gemma2, shift=_gemma_shift, activations=GELU
    ),
    Family(
        "Gemma 3",
        "GEMMA3",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        _gemma3,
        shift=_gemma_shift,
        activations=GELU,
    ),
    Family("Phi-3 and Phi-4", "PHI3", ("Phi3ForCausalLM",), _phi3, more=_phi3_extra),
    Family("GPT-2", "GPT2", ("GPT2LMHeadModel",), _gpt2, _gpt2_change, activations=GELU),
)

BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a ``config.json``.

    Raises:
        Refused: the architecture is not one we convert, or uses an activation llama.cpp would not.
    """
    names = config.get("architectures") or ["(none)"]
    family = BY_CLASS.get(str(names[0]))
    if family is None:
        raise Refused(
            f"{names[0]} can't be converted to GGUF here",
            why="our converter knows " + ", ".join(sorted(BY_CLASS)),
            hint="the backend llama-cpp-convert runs llama.cpp's own converter: set "
            'backend = "llama-cpp-convert"; or quantize to gptq or awq, which transformers loads',
        )
    text = {**config, **(config.get("text_config") or {})}
    used = (
        text.get("hidden_activation") or text.get("hidden_act") or text.get("activation_function")
    )
    if used is not None and used not in family.activations:
        raise Refused(
            f"{names[0]} with the activation {used!r} can't be converted",
            why=f"llama.cpp computes {family.title} with {', '.join(sorted(family.activations))}",
        )
    return family
