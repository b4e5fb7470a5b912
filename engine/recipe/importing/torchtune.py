"""torchtune's YAML (``tune run RECIPE --config config.yaml``): components named by Python paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.recipe.importing import hugging_face as hf
from engine.recipe.importing.translation import (
    Handler,
    Translation,
    Untranslatable,
    apply_rules,
    as_number,
    as_whole,
    decimal_to,
    flag_to,
    ignored,
    number_to,
    whole_to,
)

TELLING = {"model._component_", "checkpointer._component_", "dataset._component_"}

OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.SGD": "sgd",
    "bitsandbytes.optim.AdamW8bit": "adamw-8bit",
    "bitsandbytes.optim.PagedAdamW8bit": "adamw-paged-8bit",
    "bitsandbytes.optim.PagedAdamW": "adamw-paged-8bit",
    "transformers.Adafactor": "adafactor",
}
DATASETS = {
    "alpaca_dataset": "alpaca",
    "alpaca_cleaned_dataset": "alpaca",
    "instruct_dataset": "prompt-completion",
    "chat_dataset": "auto",
    "text_completion_dataset": "text",
    "preference_dataset": "preference",
}
MODULES = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested configuration."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _optimizer(sheet: Translation, value: Any) -> None:
    name = str(value)
    if name not in OPTIMIZERS:
        raise Untranslatable(f"there is no optimizer {name}")
    if name.endswith("PagedAdamW"):
        sheet.note("PagedAdamW keeps 32-bit states there; ours keeps 8-bit ones")
    sheet.put("train.optimizer", OPTIMIZERS[name])


def _scheduler(sheet: Translation, value: Any) -> None:
    name = str(value).rpartition(".")[2]
    if name != "get_cosine_schedule_with_warmup":
        raise Untranslatable(f"there is no schedule {name}")
    sheet.put("train.schedule", "cosine")


def _dataset(sheet: Translation, value: Any) -> None:
    name = str(value).rpartition(".")[2]
    if name not in DATASETS:
        raise Untranslatable(
            f"{name} is a dataset of torchtune's own: save its rows, set data.train"
        )
    sheet.put("data.format", DATASETS[name])


def _source(sheet: Translation, value: Any) -> None:
    if str(value) in ("json", "csv", "text", "parquet"):
        return
    path = hf.local_path(sheet, str(value))
    sheet.put("data.train", path)
    if path == str(value):
        sheet.note(f"dataset {value} is not on this machine: download it, then set data.train")


def _file(sheet: Translation, value: Any) -> None:
    files = value if isinstance(value, list) else [value]
    sheet.put("data.train", hf.local_path(sheet, str(files[0])))
    if len(files) > 1:
        raise Untranslatable("only the first file: one dataset a recipe")


def _attention(sheet: Translation, value: Any) -> None:
    names = [MODULES.get(str(name), str(name)) for name in (value or [])]
    known = sheet.get("train.targets")
    sheet.values[("train", "targets")] = [*(known or []), *names]
    sheet.sources[("train", "targets")] = sheet.current


def _mlp(sheet: Translation, value: Any) -> None:
    if value:
        _attention(sheet, ["gate_proj", "up_proj", "down_proj"])


def _dtype(sheet: Translation, value: Any) -> None:
    names = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
    if str(value) not in names:
        raise Untranslatable(f"there is no precision {value}")
    sheet.put("train.precision", names[str(value)])


def _device(sheet: Translation, value: Any) -> None:
    kind = str(value).partition(":")[0]
    sheet.put("resources.device", {"cuda": "gpu", "cpu": "cpu"}.get(kind, "auto"))


def _steps_per_epoch(sheet: Translation, value: Any) -> None:
    raise Untranslatable(
        f"ours counts the steps of the whole run: train.max_steps = {value} x epochs"
    )


def _clip(sheet: Translation, value: Any) -> None:
    sheet.put("train.clip", float(as_number(sheet, value)))


def _max_length(sheet: Translation, value: Any) -> None:
    sheet.put("data.max_length", as_whole(sheet, value))


RULES: dict[str, Handler] = {
    "checkpointer.checkpoint_dir": lambda sheet, value: sheet.put(
        "base", hf.local_path(sheet, str(value))
    ),
    "tokenizer.max_seq_len": _max_length,
    "dataset._component_": _dataset,
    "dataset.source": _source,
    "dataset.data_files": _file,
    "dataset.packed": flag_to("train.packing"),
    "dataset.train_on_input": lambda sheet, value: (
        sheet.put("data.loss_on", "all") if value else None
    ),
    "dataset.column": lambda sheet, value: sheet.put("data.columns", {"text": str(value)}),
    "seed": whole_to("seed"),
    "batch_size": whole_to("train.batch"),
    "epochs": number_to("train.epochs"),
    "gradient_accumulation_steps": whole_to("train.accumulate"),
    "max_steps_per_epoch": _steps_per_epoch,
    "optimizer._component_": _optimizer,
    "optimizer.lr": decimal_to("train.lr"),
    "optimizer.weight_decay": decimal_to("train.weight_decay"),
    "lr_scheduler._component_": _scheduler,
    "clip_grad_norm": _clip,
    "compile": flag_to("train.compile"),
    "enable_activation_checkpointing": flag_to("train.checkpointing"),
    "dtype": _dtype,
    "device": _device,
    "model.lora_attn_modules": _attention,
    "model.apply_lora_to_mlp": _mlp,
    "model.lora_rank": whole_to("train.rank"),
    "model.lora_alpha": number_to("train.alpha"),
    "model.lora_dropout": decimal_to("train.dropout"),
    "loss.beta": decimal_to("preference.beta"),
    **dict.fromkeys(
        (
            *("model._component_", "model.use_dora", "loss._component_", "optimizer.fused"),
            *("lr_scheduler.num_warmup_steps", "checkpointer._component_"),
        ),
        ignored,
    ),
}
REASONS = {
    "tokenizer.*": "the tokenizer comes with the model",
    "checkpointer.*": "results are published in the registry; weights are found by `base`",
    "metric_logger.*": "events and metrics are kept with the job; nothing is sent anywhere",
    "profiler.*": "not part of a recipe",
    "output_dir": "results are published in the registry, under the recipe's name",
    "log_*": "every step is reported",
    "resume_from_checkpoint": "the engine resumes by itself",
    "save_adapter_weights_only": "the adapter is the result; train.merge adds the merged model",
    "shuffle": "rows are shuffled by the seed",
    "enable_activation_offloading": "activations stay on the device",
    "optimizer_in_bwd": "not offered; train.checkpointing saves memory",
    "dataset.split": "the whole file is read",
    "model.apply_lora_to_output": "the head gets no adapter",
    "model.quantize_base": "method qlora says so",
    "loss.*": "the loss belongs to the method",
}


def _resolved(value: Any, whole: Mapping[str, Any]) -> Any:
    """OmegaConf's ``${output_dir}`` filled in."""
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda m: str(whole.get(m.group(1), m.group(0))), value)


def translate(sheet: Translation, foreign: Mapping[str, Any]) -> None:
    """Fill the sheet from a torchtune configuration."""
    keys = dict(flat(foreign))
    keys = {key: _resolved(value, keys) for key, value in keys.items()}
    builder = str(keys.get("model._component_", "")).rpartition(".")[2]
    loss = str(keys.get("loss._component_", "")).rpartition(".")[2].lower()
    sheet.current = ("model._component_", keys.get("model._component_"))
    hf.set_method(
        sheet,
        preference="dpo" if "dpo" in loss else None,
        adapter="lora" in builder,
        four_bit="qlora" in builder or bool(keys.get("model.quantize_base")),
        dora="dora" in builder or bool(keys.get("model.use_dora")),
    )
    apply_rules(
        sheet,
        keys,
        RULES,
        REASONS,
        lambda sheet, key, value: sheet.leave(key, value, "it has no counterpart in our recipes"),
    )
    warmup = keys.get("lr_scheduler.num_warmup_steps")
    if warmup is not None:
        hf.warmup_from_steps(sheet, "lr_scheduler.num_warmup_steps", warmup)
    sheet.current = ("", None)
    if "lr_scheduler._component_" not in keys:
        sheet.default("train.schedule", "constant", "and torchtune keeps the rate constant then")
    if "clip_grad_norm" not in keys or keys["clip_grad_norm"] is None:
        sheet.default("train.clip", 0.0, "and torchtune does not clip then")
