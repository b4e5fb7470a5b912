"""Keys a recipe sets that its method never looks at: said when it is checked, never swallowed."""

from __future__ import annotations

from collections.abc import Iterator

from engine.recipe.check import Problem
from recipes.finetune.schema import PREFERENCE_METHODS, WITH_ADAPTER, FinetuneSpec

_ADAPTER = ("rank", "alpha", "dropout", "targets", "merge")
#: What belongs to the training loop of the libraries; a reward head has its own, of seconds.
_LOOP = (
    "schedule",
    "warmup",
    "optimizer",
    "checkpointing",
    "compile",
    "group_by_length",
    "attention",
    "kernels",
    "save_every",
    "eval_every",
    "keep",
    "samples",
)
_SAMPLING = ("reward", "generations", "answer_tokens", "temperature")
_HEADS = ("neurons", "ticks")


def unused(spec: FinetuneSpec) -> Iterator[Problem]:
    """A warning for every key that is set and has no effect with this method.

    Keys at their defaults are passed over: a plan's parameters are frozen with all of them, and a
    matrix over methods shares what only some of them use.
    """
    for path, why, advice in _without_effect(spec):
        section = getattr(spec, path[0])
        field = type(section).model_fields[path[1]]
        if getattr(section, path[1]) != field.get_default(call_default_factory=True):
            yield Problem(path, f"{path[1]} has no effect here: {why}", advice, "warning")
    if spec.train.method == "reward" and spec.trainer:
        why = "a reward model's heads are trained by a loop of our own"
        yield Problem(("trainer",), f"[trainer] has no effect here: {why}", "", "warning")


def _without_effect(spec: FinetuneSpec) -> Iterator[tuple[tuple[str, str], str, str]]:
    method, head = spec.train.method, spec.preference.head
    if method not in WITH_ADAPTER:
        for name in _ADAPTER:
            yield ("train", name), f"method {method!r} trains no adapter", 'set method = "lora"'
    if method in PREFERENCE_METHODS:
        why = f"method {method!r} compares whole answers"
        if method != "grpo":
            yield ("data", "loss_on"), why, ""
        if spec.data.on_truncate == "truncate":
            yield ("data", "on_truncate"), f"{why}: longer rows are left out", "raise max_length"
    if method == "grpo":
        yield ("data", "loss_on"), "grpo learns from the answers that it samples", ""
    if method == "pretrain":
        yield ("data", "loss_on"), "pre-training learns from all text", ""
        yield ("data", "on_truncate"), "text is cut into pieces of max_length; none is lost", ""
    if method == "reward":
        for name in _LOOP:
            why = "heads are trained by AdamW at one learning rate, in seconds, on a frozen base"
            yield ("train", name), why, ""
    if method not in ("dpo", "kto", "orpo", "grpo"):
        yield ("preference", "beta"), f"method {method!r} has no reference model", ""
    if method != "reward":
        yield ("preference", "head"), f"method {method!r} has no reward head", ""
    if method != "reward" or head == "linear":
        for name in _HEADS:
            yield ("preference", name), "there is no spiking head", 'set head = "spiking"'
    if method != "grpo":
        for name in _SAMPLING:
            yield ("preference", name), f"method {method!r} samples no answers", ""
