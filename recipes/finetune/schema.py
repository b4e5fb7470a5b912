"""The keys of a ``finetune`` step. Ranges are the widest that make sense: slips are caught."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from engine.recipe.spec import DataRefStr, ModelRefStr, Passthrough, Section, StepSpec

Method = Literal[
    "lora", "qlora", "dora", "full", "pretrain", "dpo", "kto", "orpo", "reward", "grpo"
]
DataFormat = Literal[
    "auto",
    "chat",
    "alpaca",
    "sharegpt",
    "prompt-completion",
    "text",
    "preference",
    "kto",
    "prompt",
]
Strategy = Literal["ddp", "fsdp", "deepspeed"]
PREFERENCE_METHODS: frozenset[str] = frozenset({"dpo", "kto", "orpo", "reward", "grpo"})
ADAPTER_METHODS: frozenset[str] = frozenset({"lora", "qlora", "dora"})
#: Preference methods train adapters, too: a full copy of the weights would double the memory.
WITH_ADAPTER: frozenset[str] = ADAPTER_METHODS | {"dpo", "kto", "orpo", "grpo"}


class FinetuneData(Section):
    """What is learned from, and how its rows become tokens."""

    train: DataRefStr
    """Training rows: a path (JSON, JSONL, CSV, Parquet), ``name@version`` or a bundled dataset."""
    eval: DataRefStr | None = None
    """Held-out rows for the loss during and after training."""
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Where ``eval`` is not given: the fraction of ``train`` set aside (0: none)."""
    format: DataFormat = "auto"
    """How the rows are read; ``auto`` looks at them."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Renames columns to the names the format expects: ``{ instruction = "question" }``."""
    template: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Chat template to use instead of the base's own: ``chatml`` or a Jinja file's path."""
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] | Literal["auto"] = 1024
    """Tokens per row; ``auto``: the longest row that fits the memory."""
    on_truncate: Literal["drop", "truncate", "fail"] = "drop"
    """What happens to a row longer than ``max_length``."""
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Which turns are learned: every assistant turn, only the last one, or all text."""
    rows: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Use at most this many training rows, chosen by the seed."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What happens to exact repetitions of a row."""


class DistributedSection(Section):
    """Several processes for one run, started through ``accelerate launch``."""

    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """How many: one GPU each, or parts of the CPU's cores."""
    strategy: Strategy = "ddp"
    """``ddp``: every process holds the model; ``fsdp``, ``deepspeed``: it is spread over them."""
    zero_stage: Literal[1, 2, 3] = 2
    """DeepSpeed spreads 1: optimizer state, 2: gradients, too, 3: weights, too."""


class TrainSection(Section):
    """How it is learned."""

    method: Method = "lora"
    """LoRA, QLoRA (4-bit base), DoRA, all weights, pre-training on text, or a preference method."""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Stops after so many optimizer steps, whatever ``epochs`` says."""
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate; by default 2e-4 for adapters, 2e-5 for all weights, less for preferences."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0, le=4096)] | None = None
    """LoRA scaling numerator; by default twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter, by name (``q_proj``) or all linear layers."""
    batch: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = 4
    """Rows per device and step; ``auto``: the largest that fits the memory."""
    accumulate: Annotated[int, Field(ge=1, le=65536)] = 1
    """Batches per optimizer step."""
    warmup: Annotated[float, Field(ge=0, le=0.9)] = 0.03
    """Fraction of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Largest gradient norm (0: not clipped)."""
    optimizer: Literal[
        "adamw", "adamw-8bit", "adamw-paged-8bit", "lion-8bit", "adafactor", "sgd"
    ] = "adamw"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the device really computes in it, fp32 elsewhere."""
    packing: bool = False
    """Several short rows in one sequence, each attending to itself only."""
    padding_free: bool = False
    """The rows of a batch stand one behind the other instead of being padded; same results."""
    attention: Literal["auto", "sdpa", "flash"] = "auto"
    """``flash`` needs a GPU and the package flash-attn; ``auto`` and ``sdpa``: torch's own."""
    kernels: Literal["auto", "plain", "liger"] = "auto"
    """``auto``: our fused steps; ``plain``: the libraries' own; ``liger``: Liger's, on GPUs."""
    group_by_length: bool = False
    """Batches of rows of similar length: less padding."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter slower."""
    compile: bool = False
    """torch.compile: 8 % faster after some 100 CPU-seconds."""
    save_every: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    """Steps between checkpoints; ``auto``: about every two minutes."""
    keep: Literal["best", "last"] = "last"
    """Which weights are the result: the last, or those with the lowest held-out loss."""
    eval_every: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Steps between evaluations on ``eval`` (by default only at the end)."""
    samples: Annotated[int, Field(ge=0, le=20)] = 2
    """How many prompts are answered before and after training."""
    merge: bool = False
    """Also publish the adapter merged into its base."""
    distributed: DistributedSection = DistributedSection()


class PreferenceSection(Section):
    """Settings of DPO, KTO, ORPO, reward modelling and GRPO."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the policy is held to its reference (ORPO: weight of the odds ratio)."""
    head: Literal["linear", "spiking", "both"] = "linear"
    """Reward model's head: linear, leaky integrate-and-fire neurons, or both side by side."""
    neurons: Annotated[int, Field(ge=2, le=4096)] = 128
    """Width of the spiking head."""
    ticks: Annotated[int, Field(ge=2, le=256)] = 16
    """Time steps of the spiking head."""
    reward: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """GRPO: a reward model's reference, or a plugin's name (entry-point group below)."""
    generations: Annotated[int, Field(ge=2, le=256)] = 4
    """GRPO: answers sampled per prompt."""
    answer_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    """GRPO: the longest sampled answer."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0


class FinetuneSpec(StepSpec):
    """A fine-tuning run."""

    kind: Literal["finetune"] = "finetune"
    base: ModelRefStr
    """The model to start from."""
    data: FinetuneData
    train: TrainSection = TrainSection()
    preference: PreferenceSection = PreferenceSection()
    trainer: Passthrough = Field(default_factory=dict)
    """Passed on to transformers' or TRL's training arguments, by their own names."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.data.eval is not None and self.data.eval_fraction:
            raise ValueError("give data.eval or data.eval_fraction, not both")
        held_out = self.data.eval is not None or self.data.eval_fraction > 0
        if self.train.keep == "best" and not held_out:
            raise ValueError(
                'train.keep = "best" needs held-out rows: set data.eval or data.eval_fraction'
            )
        if self.train.eval_every is not None and not held_out:
            raise ValueError("train.eval_every needs held-out rows: set data.eval")
        if self.train.packing and self.train.method in PREFERENCE_METHODS:
            raise ValueError(f"train.packing is not possible with method {self.train.method!r}")
        if self.train.padding_free and self.train.method in PREFERENCE_METHODS:
            raise ValueError(f"train.padding_free is not possible with {self.train.method!r}")
        if self.train.method == "grpo" and (self.train.keep == "best" or self.train.eval_every):
            raise ValueError(
                "grpo measures held-out prompts before and after training only: "
                "leave train.keep and train.eval_every out"
            )
        if self.train.method == "grpo" and self.preference.reward is None:
            raise ValueError("method grpo needs preference.reward: a reward model or a plugin")
        return self

    @property
    def learning_rate(self) -> float:
        """The learning rate used: the recipe's, or the default of its method."""
        if self.train.lr is not None:
            return self.train.lr
        return DEFAULT_LEARNING_RATES[self.train.method]

    @property
    def lora_alpha(self) -> float:
        """The LoRA scaling numerator used."""
        return self.train.alpha if self.train.alpha is not None else 2.0 * self.train.rank


#: Common choices of the field for each method; preference methods move the model gently.
DEFAULT_LEARNING_RATES: dict[str, float] = {
    "lora": 2e-4,
    "qlora": 2e-4,
    "dora": 2e-4,
    "full": 2e-5,
    "pretrain": 2e-5,
    "dpo": 5e-6,
    "kto": 5e-6,
    "orpo": 8e-6,
    "reward": 1e-3,
    "grpo": 1e-5,
}
