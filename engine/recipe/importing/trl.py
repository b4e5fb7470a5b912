"""TRL's YAML (``trl sft --config config.yaml``) and Unsloth's, which uses the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.recipe.importing import hugging_face as hf
from engine.recipe.importing.translation import (
    Handler,
    Translation,
    Untranslatable,
    apply_rules,
    as_flag,
    decimal_to,
    ignored,
    number_to,
    text_to,
    whole_to,
)

TELLING = {
    *("use_peft", "dataset_train_split", "dataset_name", "lora_r", "dataset_text_field"),
    *("model_name_or_path", "max_seq_length", "assistant_only_loss"),
}
UNSLOTH_TELLING = {
    *("max_seq_length", "use_gradient_checkpointing", "random_state", "finetune_language_layers"),
    *("model_name", "load_in_4bit"),
}


def _dataset(sheet: Translation, value: Any) -> None:
    name = str(value)
    path = hf.local_path(sheet, name)
    sheet.put("data.train", path)
    if path == name:
        sheet.note(f"dataset {name} is not on this machine: download it, then set data.train")


def _assistant_only(sheet: Translation, value: Any) -> None:
    if not as_flag(value):
        sheet.put("data.loss_on", "all")


def _text_field(sheet: Translation, value: Any) -> None:
    if str(value) not in ("", "text"):
        sheet.put("data.columns", {"text": str(value)})
        sheet.put("data.format", "text")


def _checkpointing(sheet: Translation, value: Any) -> None:
    if as_flag(value):
        sheet.put("train.checkpointing", True)


def _reward(sheet: Translation, value: Any) -> None:
    if isinstance(value, list):
        if len(value) != 1:
            raise Untranslatable("one reward a recipe: a reward model or a plugin")
        value = value[0]
    sheet.put("preference.reward", str(value))


RULES: dict[str, Handler] = {
    **hf.ARGUMENTS,
    "dataset_name": _dataset,
    "max_length": whole_to("data.max_length"),
    "max_seq_length": whole_to("data.max_length"),
    "assistant_only_loss": _assistant_only,
    "dataset_text_field": _text_field,
    "lora_r": whole_to("train.rank"),
    "lora_target_modules": hf.targets,
    "reward_model_name_or_path": _reward,
    "reward_funcs": _reward,
    # read together, to tell the method
    **dict.fromkeys(("use_peft", "load_in_4bit", "warmup_steps"), ignored),
}
UNSLOTH_RULES: dict[str, Handler] = {
    **RULES,
    "model_name": text_to("base"),
    "dataset": _dataset,
    "r": whole_to("train.rank"),
    "lora_r": whole_to("train.rank"),
    "lora_alpha": number_to("train.alpha"),
    "lora_dropout": decimal_to("train.dropout"),
    "target_modules": hf.targets,
    "use_gradient_checkpointing": _checkpointing,
    "gradient_checkpointing": _checkpointing,
    "random_state": whole_to("seed"),
    "num_epochs": number_to("train.epochs"),
    "batch_size": whole_to("train.batch"),
    "lr_scheduler": hf.schedule,
    "full_finetuning": ignored,
    "training_type": ignored,
}
REASONS = {
    **hf.REASONS,
    "dataset_train_split": "the whole file is the training data; held-out rows are data.eval",
    "dataset_test_split": "name the held-out file as data.eval",
    "dataset_config": "the whole file is read",
    "torch_dtype": "the precision is train.precision",
    "dtype": "the precision is train.precision",
    "model_revision": "models are found by their references",
    "load_in_8bit": "the base is loaded in its own precision, or in 4 bits by method qlora",
    "use_bnb_nested_quant": "QLoRA uses NF4 with double quantization",
    "gradient_checkpointing_kwargs": "the non-reentrant form is used",
    "eos_token": "the tokenizer comes with the model",
    "finetune_*": "only text models are trained",
    "is_cpt": 'use train.method = "pretrain"',
    "save_merged_model": "use train.merge",
    "save_method": "use train.merge, or add a quantize step",
    "quantization*": "add a quantize step",
    "save_gguf": "add a quantize step",
    "save_model": "results are published in the registry",
    "save_path": "results are published in the registry",
}


def _method(foreign: Mapping[str, Any]) -> str | None:
    """The trainer is named on TRL's command line; its own arguments tell which one it was."""
    if "num_generations" in foreign or "reward_funcs" in foreign:
        return "grpo"
    if "desirable_weight" in foreign or "undesirable_weight" in foreign:
        return "kto"
    if "center_rewards_coefficient" in foreign:
        return "reward"
    if {"loss_type", "precompute_ref_log_probs", "max_prompt_length", "beta"} & set(foreign):
        return "dpo"
    return None


def translate(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    """Fill the sheet from a TRL configuration."""
    preference = _method(foreign)
    sheet.current = ("use_peft", foreign.get("use_peft"))
    adapter = bool(foreign.get("use_peft"))
    hf.set_method(
        sheet,
        preference=preference,
        adapter=adapter,
        four_bit=bool(foreign.get("load_in_4bit")),
        dora=bool(foreign.get("use_dora")),
    )
    told = preference or "supervised fine-tuning (trl sft)"
    sheet.note(f"TRL's files do not name the trainer: its keys tell {told}")
    apply_rules(sheet, foreign, RULES, REASONS, hf.to_trainer)
    if foreign.get("warmup_steps") is not None:
        hf.warmup_from_steps(sheet, "warmup_steps", foreign["warmup_steps"])
    why = "and this is TRL's default"
    sheet.current = ("", None)
    sheet.default("train.lr", {"dpo": 1e-6, "kto": 1e-6, "grpo": 1e-6}.get(told, 2e-5), why)
    _defaults(sheet, why)
    if adapter:
        sheet.default("train.alpha", 32, why)
        sheet.default("train.dropout", 0.05, why)


def translate_unsloth(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    """Fill the sheet from an Unsloth configuration; sections such as ``lora:`` are flattened."""
    flat: dict[str, Any] = {}
    for key, value in foreign.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                if inner in flat and flat[inner] != item:
                    sheet.leave(f"{key}.{inner}", item, f"`{inner}` stands twice")
                else:
                    flat[str(inner)] = item
        else:
            flat[str(key)] = value
    full = bool(flat.get("full_finetuning")) or flat.get("training_type") == "full"
    sheet.current = ("load_in_4bit", flat.get("load_in_4bit"))
    hf.set_method(
        sheet,
        preference=_method(flat),
        adapter=not full,
        four_bit=bool(flat.get("load_in_4bit", True)),
        dora=bool(flat.get("use_dora")),
    )
    apply_rules(sheet, flat, UNSLOTH_RULES, REASONS, hf.to_trainer)
    if flat.get("warmup_steps") is not None:
        hf.warmup_from_steps(sheet, "warmup_steps", flat["warmup_steps"])
    why = "and this is Unsloth's default"
    sheet.current = ("", None)
    sheet.default("train.lr", 2e-4, why)
    sheet.default("data.max_length", 2048, why)
    _defaults(sheet, why)


def _defaults(sheet: Translation, why: str) -> None:
    sheet.default("train.batch", 8, why)
    sheet.default("train.schedule", "linear", why)
    sheet.default("train.warmup", 0.0, why)
    if sheet.get("train.max_steps") is None:
        sheet.default("train.epochs", 3.0, why)
