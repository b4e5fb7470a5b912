"""What the programs on top of transformers share: training arguments, LoRA keys, datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.recipe.importing.translation import (
    Handler,
    Translation,
    Untranslatable,
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

#: Names of optimizers in transformers, Axolotl and LLaMA-Factory.
OPTIMIZERS = {
    "adamw": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_apex_fused": "adamw",
    "adamw_8bit": "adamw-8bit",
    "adamw_bnb_8bit": "adamw-8bit",
    "paged_adamw_8bit": "adamw-paged-8bit",
    "lion_8bit": "lion-8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")

_ATTENTION = "chosen by the device; on a GPU train.attention = 'flash' asks for flash-attn"
KERNELS = "ours are fused by default; on a GPU train.kernels = 'liger' asks for Liger's"
_PROCESSES = "how many processes is not told here: set train.distributed (processes, strategy)"
_HELD_OUT = "held-out rows are evaluated at the end, and every train.eval_every steps"
#: Keys without a counterpart, by what they are for. A final ``*`` matches any ending.
REASONS: dict[str, str] = {
    "output_dir": "results are published in the registry, under the recipe's name",
    "overwrite_output_dir": "a run never overwrites another one",
    "run_name": "the recipe's name names the run",
    "logging_*": "every step is reported",
    "log_*": "every step is reported",
    "report_to": "events and metrics are kept with the job; nothing is sent anywhere",
    "plot_loss": "the loss curve is on the Jobs screen",
    "wandb*": "events and metrics are kept with the job; nothing is sent anywhere",
    "use_wandb": "events and metrics are kept with the job; nothing is sent anywhere",
    "mlflow*": "events and metrics are kept with the job; nothing is sent anywhere",
    "comet*": "events and metrics are kept with the job; nothing is sent anywhere",
    "swanlab*": "events and metrics are kept with the job; nothing is sent anywhere",
    "use_swanlab": "events and metrics are kept with the job; nothing is sent anywhere",
    "push_to_hub": "nothing leaves this machine by itself",
    "push_model": "nothing leaves this machine by itself",
    "hub_*": "nothing leaves this machine by itself",
    "hf_*": "the hub is reached only with engine.hub = true in the settings",
    "trust_remote_code": "code that comes with a model is never run",
    "save_strategy": "checkpoints are written about every two minutes (train.save_every)",
    "save_total_limit": "the last two complete checkpoints are kept",
    "save_only_model": "a run could not be resumed",
    "save_safetensors": "weights are always safetensors",
    "saves_per_epoch": "checkpoints are written about every two minutes (train.save_every)",
    "resume_from_checkpoint": "the engine resumes by itself",
    "auto_resume_from_checkpoints": "the engine resumes by itself",
    "ddp_*": _PROCESSES,
    "deepspeed": _PROCESSES,
    "fsdp*": _PROCESSES,
    "flash_attention": _ATTENTION,
    "flash_attn": _ATTENTION,
    "attn_implementation": _ATTENTION,
    "sdp_attention": _ATTENTION,
    "xformers_attention": _ATTENTION,
    "liger_*": KERNELS,
    "use_liger_kernel": KERNELS,
    "enable_liger_kernel": KERNELS,
    "plugins": "plugins of another program",
    "dataloader_*": "rows are prepared before training starts",
    "preprocessing_num_workers": "rows are prepared before training starts",
    "dataset_num_proc": "rows are prepared before training starts",
    "dataset_prepared_path": "rows are prepared before training starts",
    "overwrite_cache": "rows are prepared before training starts",
    "model_type": "the model's own configuration tells its class",
    "tokenizer_type": "the model's own configuration tells its class",
    "tokenizer_config": "the tokenizer comes with the model",
    "tokenizer_use_fast": "the tokenizer comes with the model",
    "special_tokens*": "the tokenizer comes with the model; a changed one would not match its base",
    "tokens": "the tokenizer comes with the model; a changed one would not match its base",
    "chat_template*": "the template that comes with the model is used, never replaced in silence",
    "template": "the template that comes with the model is used, never replaced in silence",
    "default_system": "put the system message into the rows",
    "do_train": "a finetune step trains",
    "do_eval": "held-out rows are evaluated where data.eval or data.eval_fraction is set",
    "do_predict": "add an evaluate step",
    "eval_strategy": _HELD_OUT,
    "evaluation_strategy": _HELD_OUT,
    "evals_per_epoch": _HELD_OUT,
    "per_device_eval_batch_size": "the evaluation uses train.batch",
    "eval_batch_size": "the evaluation uses train.batch",
    "ddp": _PROCESSES,
    "use_rslora": "rank-stabilized scaling is not offered; set train.alpha",
    "peft_use_rslora": "rank-stabilized scaling is not offered; set train.alpha",
    "loftq*": "LoftQ initialization is not offered",
    "lora_bias": "adapters have no bias here",
    "bias": "adapters have no bias here",
    "lora_modules_to_save": "only adapters are trained; use method full for more",
    "modules_to_save": "only adapters are trained; use method full for more",
    "lora_task_type": "the method tells it",
    "bnb_4bit_*": "QLoRA uses NF4 with double quantization",
    "neftune_noise_alpha": "noise on embeddings is not offered",
    "tf32": "the precision is train.precision",
    "strict": "unknown keys are always errors here",
    "debug": "not part of a recipe",
    "local_rank": _PROCESSES,
    "early_stopping_patience": 'use train.keep = "best" with train.eval_every',
}


def precision(name: str) -> Handler:
    """``bf16: true``, ``fp16: auto``."""

    def rule(sheet: Translation, value: Any) -> None:
        if str(value).lower() in ("auto", "full"):
            sheet.put("train.precision", "auto" if str(value).lower() == "auto" else name)
        elif as_flag(value):
            sheet.put("train.precision", name)

    return rule


def optimizer(sheet: Translation, value: Any) -> None:
    """An optimizer's name in transformers."""
    name = str(value).lower().removeprefix("optimizernames.")
    if name not in OPTIMIZERS:
        raise Untranslatable(
            f"there is no optimizer {value}; ours: {', '.join(OPTIMIZERS.values())}"
        )
    sheet.put("train.optimizer", OPTIMIZERS[name])


def schedule(sheet: Translation, value: Any) -> None:
    """A learning rate schedule of transformers."""
    if str(value) not in SCHEDULES:
        raise Untranslatable(f"there is no schedule {value}; ours: {', '.join(SCHEDULES)}")
    sheet.put("train.schedule", str(value))


def targets(sheet: Translation, value: Any) -> None:
    """LoRA target modules: a list, a comma list, ``all`` or ``all-linear``."""
    names = value if isinstance(value, list) else str(value).split(",")
    names = [str(name).strip() for name in names if str(name).strip()]
    if names in (["all"], ["all-linear"]):
        sheet.put("train.targets", "all-linear")
    elif names:
        sheet.put("train.targets", names)


def steps_to(path: str) -> Handler:
    """A number of steps; transformers takes fractions below 1 as a part of the run."""

    def rule(sheet: Translation, value: Any) -> None:
        number = as_number(sheet, value)
        if number < 1:
            raise Untranslatable("a fraction of the run; ours counts steps")
        sheet.put(path, as_whole(sheet, value))

    return rule


def max_steps(sheet: Translation, value: Any) -> None:
    """``-1`` and ``0`` mean: by epochs."""
    number = as_whole(sheet, value)
    if number > 0:
        sheet.put("train.max_steps", number)


def best(sheet: Translation, value: Any) -> None:
    """``load_best_model_at_end``."""
    if as_flag(value):
        sheet.put("train.keep", "best")


#: Training arguments of transformers, as TRL, Unsloth and LLaMA-Factory use them.
ARGUMENTS: dict[str, Handler] = {
    "learning_rate": decimal_to("train.lr"),
    "num_train_epochs": number_to("train.epochs"),
    "max_steps": max_steps,
    "per_device_train_batch_size": whole_to("train.batch"),
    "gradient_accumulation_steps": whole_to("train.accumulate"),
    "warmup_ratio": decimal_to("train.warmup"),
    "weight_decay": decimal_to("train.weight_decay"),
    "max_grad_norm": decimal_to("train.clip"),
    "lr_scheduler_type": schedule,
    "optim": optimizer,
    "bf16": precision("bf16"),
    "fp16": precision("fp16"),
    "gradient_checkpointing": flag_to("train.checkpointing"),
    "group_by_length": flag_to("train.group_by_length"),
    "torch_compile": flag_to("train.compile"),
    "packing": flag_to("train.packing"),
    "padding_free": flag_to("train.padding_free"),
    "seed": whole_to("seed"),
    "save_steps": steps_to("train.save_every"),
    "eval_steps": steps_to("train.eval_every"),
    "load_best_model_at_end": best,
    "lora_alpha": number_to("train.alpha"),
    "lora_dropout": decimal_to("train.dropout"),
    "use_dora": ignored,
    "beta": decimal_to("preference.beta"),
    "num_generations": whole_to("preference.generations"),
    "max_completion_length": whole_to("preference.answer_tokens"),
    "temperature": decimal_to("preference.temperature"),
    "model_name_or_path": text_to("base"),
}


def warmup_from_steps(sheet: Translation, key: str, value: Any) -> None:
    """Our warm-up is a fraction of the run: it follows from steps only where their total is set."""
    sheet.current = (key, value)
    try:
        steps = as_number(sheet, value)
    except Untranslatable as error:
        sheet.leave(key, value, str(error))
        return
    total = sheet.get("train.max_steps")
    if 0 < steps < 1:
        sheet.put("train.warmup", float(steps))
    elif steps == 0:
        if sheet.get("train.warmup") is None:
            sheet.put("train.warmup", 0.0)
    elif total:
        fraction = min(0.9, round(float(steps) / float(total), 4))
        if sheet.get("train.warmup") is None:
            sheet.put("train.warmup", fraction)
            sheet.note(f"{key}: {steps:g} of {total} steps are train.warmup = {fraction:g}")
    else:
        reason = "ours is a fraction of the steps (train.warmup), and their number is not set there"
        sheet.leave(key, value, reason)


def to_trainer(sheet: Translation, key: str, value: Any) -> None:
    """A key without a rule: tried as an argument of the trainer; the recipe check decides."""
    if "." in key or isinstance(value, Mapping):
        sheet.leave(key, value, "it has no counterpart in our recipes")
        return
    sheet.current = (key, value)
    sheet.put(f"trainer.{key}", value)


def local_path(sheet: Translation, text: str) -> str:
    """A path of the foreign file made absolute where it exists; anything else as it is."""
    candidate = sheet.folder / Path(text).expanduser()
    return os.path.normpath(candidate) if candidate.exists() else text


def set_method(
    sheet: Translation, *, preference: str | None, adapter: bool, four_bit: bool, dora: bool
) -> None:
    """Our one ``train.method`` from the switches of the others."""
    if preference is not None:
        sheet.put("train.method", preference)
        if not adapter:
            sheet.note(f"{preference} trains an adapter here, it trained all weights there")
        if four_bit:
            sheet.note(f"{preference} keeps the base in its own precision here, 4 bits there")
    elif adapter:
        sheet.put("train.method", "dora" if dora else "qlora" if four_bit else "lora")
        if dora and four_bit:
            sheet.note("DoRA keeps the base in its own precision here, 4 bits there")
    else:
        sheet.put("train.method", "full")
