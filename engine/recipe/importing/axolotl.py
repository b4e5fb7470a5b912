"""Axolotl's YAML (``axolotl train config.yml``)."""

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
    as_number,
    as_whole,
    decimal_to,
    flag_to,
    ignored,
    number_to,
    text_to,
    whole_to,
)

#: Keys that only Axolotl uses.
TELLING = {"sequence_len", "micro_batch_size", "sample_packing", "datasets", "base_model"}

#: Prompt strategies and the row format they read.
FORMATS = {
    "alpaca": "alpaca",
    "alpaca_chat": "alpaca",
    "chat_template": "chat",
    "sharegpt": "sharegpt",
    "completion": "text",
    "chatml.intel": "preference",
    "chatml.argilla": "preference",
    "chat_template.default": "preference",
    "llama3.argilla": "preference",
}
RL_METHODS = {"dpo": "dpo", "kto": "kto", "orpo": "orpo", "grpo": "grpo"}


def _datasets(sheet: Translation, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise Untranslatable("a list of datasets is expected")
    _dataset(sheet, value[0], "datasets[0]")
    for index, other in enumerate(value[1:], 1):
        sheet.leave(
            f"datasets[{index}]",
            other,
            "one dataset a recipe: join them with `modelops-tui data import --append`",
        )


def _dataset(sheet: Translation, entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        entry = {"path": entry}
    files = entry.get("data_files")
    path = files[0] if isinstance(files, list) and files else files or entry.get("path", "")
    sheet.put("data.train", hf.local_path(sheet, str(path)))
    kind = str(entry.get("type", ""))
    if kind in FORMATS:
        sheet.put("data.format", FORMATS[kind])
    elif kind:
        sheet.leave(
            f"{where}.type", kind, "no such row format here; rows are told apart by looking"
        )
    columns = {}
    for theirs, ours in (("field_messages", "messages"), ("field", "text")):
        if entry.get(theirs) and entry[theirs] != ours:
            columns[ours] = str(entry[theirs])
    if columns.get("messages") == "conversations" and sheet.get("data.format") != "chat":
        columns.pop("messages")
    if columns:
        sheet.put("data.columns", columns)
    if str(entry.get("train_on_eos", "turn")) not in ("turn", "all"):
        sheet.leave(f"{where}.train_on_eos", entry["train_on_eos"], "end tokens are always learned")
    roles = entry.get("roles_to_train")
    if roles and list(roles) not in (["assistant"], ["gpt"]):
        sheet.leave(
            f"{where}.roles_to_train", roles, "only assistant turns (or all text) are learned"
        )
    known = {
        *("path", "type", "data_files", "field_messages", "field"),
        *("train_on_eos", "roles_to_train", "ds_type"),
    }
    for key in entry:
        if key not in known and entry[key] is not None:
            sheet.leave(f"{where}.{key}", entry[key], "rows are read as they are in the file")


def _validation(sheet: Translation, value: Any) -> None:
    size = as_number(sheet, value)
    if size >= 1:
        raise Untranslatable("a number of rows; ours is a fraction (data.eval_fraction)")
    if size > 0.5:
        raise Untranslatable("at most half of the rows can be held out")
    if size > 0:
        sheet.put("data.eval_fraction", float(size))


def _test_datasets(sheet: Translation, value: Any) -> None:
    entries = value if isinstance(value, list) else [value]
    entry = entries[0] if isinstance(entries[0], Mapping) else {"path": entries[0]}
    sheet.put("data.eval", hf.local_path(sheet, str(entry.get("path", ""))))
    if len(entries) > 1:
        raise Untranslatable("only the first one: one held-out dataset a recipe")


def _train_on_inputs(sheet: Translation, value: Any) -> None:
    if as_flag(value):
        sheet.put("data.loss_on", "all")


def _linear(sheet: Translation, value: Any) -> None:
    if as_flag(value):
        sheet.put("train.targets", "all-linear")


def _batch(sheet: Translation, value: Any) -> None:
    if str(value) == "auto":
        raise Untranslatable('use train.batch = "auto"')
    sheet.put("train.batch", as_whole(sheet, value))


RULES: dict[str, Handler] = {
    "base_model": text_to("base"),
    "datasets": _datasets,
    "pretraining_dataset": _datasets,
    "test_datasets": _test_datasets,
    "val_set_size": _validation,
    "sequence_len": whole_to("data.max_length"),
    "excess_length_strategy": lambda sheet, value: sheet.put(
        "data.on_truncate", {"drop": "drop", "truncate": "truncate"}.get(str(value), "fail")
    ),
    "train_on_inputs": _train_on_inputs,
    "micro_batch_size": _batch,
    "gradient_accumulation_steps": whole_to("train.accumulate"),
    "num_epochs": number_to("train.epochs"),
    "max_steps": hf.max_steps,
    "learning_rate": decimal_to("train.lr"),
    "lr_scheduler": hf.schedule,
    "warmup_ratio": decimal_to("train.warmup"),
    "optimizer": hf.optimizer,
    "weight_decay": decimal_to("train.weight_decay"),
    "max_grad_norm": decimal_to("train.clip"),
    "sample_packing": flag_to("train.packing"),
    "batch_flattening": flag_to("train.padding_free"),
    "group_by_length": flag_to("train.group_by_length"),
    "bf16": hf.precision("bf16"),
    "fp16": hf.precision("fp16"),
    "gradient_checkpointing": flag_to("train.checkpointing"),
    "torch_compile": flag_to("train.compile"),
    "seed": whole_to("seed"),
    "save_steps": hf.steps_to("train.save_every"),
    "eval_steps": hf.steps_to("train.eval_every"),
    "load_best_model_at_end": hf.best,
    "lora_r": whole_to("train.rank"),
    "lora_alpha": number_to("train.alpha"),
    "lora_dropout": decimal_to("train.dropout"),
    "lora_target_modules": hf.targets,
    "lora_target_linear": _linear,
    "merge_lora": flag_to("train.merge"),
    "rl_beta": decimal_to("preference.beta"),
    "dpo_beta": decimal_to("preference.beta"),
    "orpo_alpha": decimal_to("preference.beta"),
    # these tell the method together; the warm-up needs the number of steps
    **dict.fromkeys(
        ("adapter", "rl", "reward_model", "load_in_4bit", "peft_use_dora", "warmup_steps"), ignored
    ),
}
REASONS = {
    **hf.REASONS,
    "load_in_8bit": "the base is loaded in its own precision, or in 4 bits by method qlora",
    "pad_to_sequence_len": "rows are padded to the longest of their batch",
    "eval_sample_packing": "held-out rows are never packed",
    "shuffle_merged_datasets": "rows are shuffled by the seed",
    "is_llama_derived_model": "the model's own configuration tells its class",
    "lora_qkv_kernel": hf.KERNELS,
    "lora_mlp_kernel": hf.KERNELS,
    "lora_o_kernel": hf.KERNELS,
    "lora_model_dir": "name the adapter as `base`",
}


def translate(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    """Fill the sheet from an Axolotl configuration."""
    adapter = str(foreign.get("adapter") or "").lower()
    rl = str(foreign.get("rl") or "").lower()
    sheet.current = ("rl" if rl else "adapter", rl or adapter)
    preference = RL_METHODS.get(rl)
    if rl and preference is None:
        sheet.leave("rl", rl, f"there is no method {rl}; ours: {', '.join(RL_METHODS)}")
    if adapter and adapter not in ("lora", "qlora"):
        sheet.leave("adapter", adapter, "there is lora and qlora; translated as full")
    four_bit = foreign.get("load_in_4bit")
    if four_bit is not None and not isinstance(four_bit, bool):
        sheet.leave("load_in_4bit", four_bit, "neither true nor false")
    if foreign.get("reward_model"):
        preference = "reward"
    if foreign.get("pretraining_dataset"):
        sheet.put("train.method", "pretrain")
    else:
        hf.set_method(
            sheet,
            preference=preference,
            adapter=adapter in ("lora", "qlora"),
            four_bit=adapter == "qlora" or (bool(adapter) and four_bit is True),
            dora=bool(foreign.get("peft_use_dora")),
        )
    apply_rules(sheet, foreign, RULES, REASONS, hf.to_trainer)
    if foreign.get("warmup_steps") is not None:
        hf.warmup_from_steps(sheet, "warmup_steps", foreign["warmup_steps"])
    why = "and Axolotl's default is another than ours"
    sheet.default("train.epochs", 1.0, why) if not foreign.get("max_steps") else None
    if adapter in ("lora", "qlora") and foreign.get("lora_alpha") is None:
        sheet.note("lora_alpha is not set there: ours is twice the rank")
