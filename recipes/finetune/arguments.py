"""transformers' training arguments from our schema: every default that bites is set explicitly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from engine.errors import BadInput
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-8bit": "adamw_bnb_8bit",
    "adamw-paged-8bit": "paged_adamw_8bit",
    "lion-8bit": "lion_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def total_steps(spec: FinetuneSpec, items: int, batch: int, processes: int = 1) -> int:
    """Optimizer steps of the run: as the trainer counts them (whole batches, rounded up).

    Args:
        spec: the recipe.
        items: rows, or packed sequences, per epoch.
        batch: items per device and step.
        processes: how many take batches in turn.
    """
    if spec.train.max_steps is not None:
        return spec.train.max_steps
    batches = math.ceil(math.ceil(items / batch) / processes)
    per_epoch = max(math.ceil(batches / spec.train.accumulate), 1)
    return max(math.ceil(spec.train.epochs * per_epoch), 1)


def training_arguments(
    ctx: StepContext, spec: FinetuneSpec, steps: int, batch: int, fp16: bool = False
) -> dict[str, Any]:
    """Keyword arguments of ``TrainingArguments`` (and of TRL's configs, which extend it).

    The ``[trainer]`` table comes last; keys that we own were refused when the recipe was checked.
    """
    schedule = spec.train.schedule
    warmup = math.ceil(spec.train.warmup * steps)
    if schedule == "constant":
        warmup = 0
    values: dict[str, Any] = {
        "output_dir": str(ctx.checkpoints_dir),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": spec.train.accumulate,
        "num_train_epochs": spec.train.epochs,
        "max_steps": spec.train.max_steps or -1,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup,
        "weight_decay": spec.train.weight_decay,
        "max_grad_norm": spec.train.clip,
        "optim": OPTIMIZERS[spec.train.optimizer],
        "bf16": False,
        "fp16": fp16,
        "gradient_checkpointing": False,
        "torch_compile": spec.train.compile,
        "use_cpu": ctx.device == "cpu",
        "seed": spec.seed,
        "data_seed": spec.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "logging_strategy": "steps",
        "eval_strategy": "no",
        # we say when: every two minutes, on a stop and at the end
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": ctx.device != "cpu",
        "train_sampling_strategy": "group_by_length" if spec.train.group_by_length else "random",
        "label_names": ["labels"],
        "push_to_hub": False,
        # every trained weight has its gradient in every step; looking for others costs time
        "ddp_find_unused_parameters": False,
    }
    return values | spec.trainer


def make_arguments(kind: Any, values: dict[str, Any]) -> Any:
    """Build ``kind(**values)``; what the library refuses is the recipe's mistake.

    Raises:
        BadInput: the library's own words.
    """
    with quiet_libraries():
        try:
            return kind(**values)
        except (ValueError, TypeError) as error:
            raise BadInput(
                "the trainer refuses its arguments",
                why=str(error).strip().splitlines()[0],
                hint="see the [trainer] table of the recipe",
            ) from error
