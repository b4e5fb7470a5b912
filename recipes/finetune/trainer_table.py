"""Names and types of the libraries' training arguments, known without importing torch.

``trainer_arguments.json`` is made from the pinned libraries by ``python -m
recipes.finetune.trainer_table``; a test holds it against what is installed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("trainer_arguments.json")

_DISTRIBUTED = "use train.distributed: processes, strategy (ddp, fsdp, deepspeed), zero_stage"
#: Arguments that have a key of our own, or that would break resuming: the key to use instead.
OWNED: dict[str, str] = {
    "output_dir": "the engine keeps the run's folder",
    "per_device_train_batch_size": "use train.batch",
    "gradient_accumulation_steps": "use train.accumulate",
    "num_train_epochs": "use train.epochs",
    "max_steps": "use train.max_steps",
    "learning_rate": "use train.lr",
    "lr_scheduler_type": "use train.schedule",
    "warmup_steps": "use train.warmup (a fraction of the steps)",
    "weight_decay": "use train.weight_decay",
    "max_grad_norm": "use train.clip",
    "optim": "use train.optimizer",
    "bf16": "use train.precision",
    "fp16": "use train.precision",
    "gradient_checkpointing": "use train.checkpointing",
    "activation_checkpointing": "use train.checkpointing",
    "torch_compile": "use train.compile",
    "seed": "use seed",
    "data_seed": "use seed",
    "use_cpu": "use resources.device",
    "logging_strategy": "every step is reported",
    "logging_steps": "every step is reported",
    "logging_nan_inf_filter": "a loss of NaN must stop the run",
    "disable_tqdm": "the terminal belongs to the screen",
    "report_to": "events carry the metrics",
    "eval_strategy": "use train.eval_every",
    "eval_steps": "use train.eval_every",
    "save_strategy": "use train.save_every",
    "save_steps": "use train.save_every",
    "save_total_limit": "the last two complete checkpoints are kept",
    "save_only_model": "a run could not be resumed",
    "load_best_model_at_end": 'use train.keep = "best"',
    "ignore_data_skip": "a resumed run would see other rows",
    "resume_from_checkpoint": "the engine resumes by itself",
    "remove_unused_columns": "the rows are prepared by us",
    "train_sampling_strategy": "use train.group_by_length",
    "auto_find_batch_size": 'use train.batch = "auto"',
    "push_to_hub": "nothing leaves this machine by itself",
    "hub_token": "nothing leaves this machine by itself",
    "trust_remote_code": "code of others is never run",
    "max_length": "use data.max_length",
    "max_completion_length": "use preference.answer_tokens",
    "num_generations": "use preference.generations",
    "temperature": "use preference.temperature",
    "beta": "use preference.beta",
    # the launcher's configuration says these; here they would contradict it
    **dict.fromkeys(
        (
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "parallelism_config",
            "accelerator_config",
            "average_tokens_across_devices",
            "ddp_backend",
            "ddp_timeout",
            "ddp_find_unused_parameters",
        ),
        _DISTRIBUTED,
    ),
}

_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    list: "list",
    dict: "table",
    type(None): "none",
}


def generate() -> dict[str, Any]:
    """The table as the installed libraries have it. Imports transformers and TRL (6 CPU-s)."""
    import transformers
    import trl
    from trl.experimental.orpo import ORPOConfig

    base = _arguments(transformers.TrainingArguments)
    table: dict[str, Any] = {
        "versions": {"transformers": transformers.__version__, "trl": trl.__version__},
        "transformers": base,
    }
    for name, kind in (
        ("dpo", trl.DPOConfig),
        ("kto", trl.KTOConfig),
        ("orpo", ORPOConfig),
        ("grpo", trl.GRPOConfig),
    ):
        own = _arguments(kind)
        table[name] = {key: value for key, value in own.items() if base.get(key) != value}
    return table


def _arguments(kind: Any) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(kind)
    found = {}
    for item in dataclasses.fields(kind):
        if item.init and not item.name.startswith("_"):
            allowed, choices = _describe(hints[item.name])
            found[item.name] = {"types": sorted(allowed)} | (
                {"choices": sorted(choices)} if choices else {}
            )
    return found


def _describe(hint: Any) -> tuple[set[str], set[str]]:
    """Names of the JSON types an annotation allows, and its choices where it is an enumeration."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        allowed: set[str] = set()
        choices: set[str] = set()
        for part in typing.get_args(hint):
            more, options = _describe(part)
            allowed |= more
            choices |= options
        return allowed, choices
    if origin is typing.Literal:
        return {_NAMES.get(type(value), "text") for value in typing.get_args(hint)}, set()
    base = origin or hint
    if isinstance(base, type) and issubclass(base, Enum):
        return {"text"}, {str(member.value) for member in base}
    if base in _NAMES:
        return {_NAMES[base]}, set()
    return {"table"}, set()


@cache
def shipped() -> dict[str, Any]:
    """The table that comes with the program."""
    value: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return value


def arguments_for(method: str) -> dict[str, dict[str, Any]]:
    """Every argument the library behind ``method`` knows, by name."""
    table = shipped()
    return {**table["transformers"], **table.get(method, {})}


def problem_with(method: str, name: str, value: Any) -> tuple[str, str] | None:
    """``(what, advice)`` when a ``[trainer]`` argument can't be passed on, else None."""
    known = arguments_for(method)
    if name in OWNED and name in known:
        return f"{name!r} is not set here", OWNED[name]
    if name not in known:
        free = [key for key in known if key not in OWNED]
        near = difflib.get_close_matches(name, free, n=1)
        owned = difflib.get_close_matches(name, OWNED, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "see transformers.TrainingArguments"
        if owned and not near:
            advice = OWNED[owned[0]]
        return f"{name!r} is not an argument of the trainer", advice
    facts = known[name]
    if not any(_is(value, kind) for kind in facts["types"]):
        wanted = " or ".join(kind for kind in facts["types"] if kind != "none")
        return f"{name!r} must be {_article(wanted)}, it is {_shown(value)}", ""
    choices = facts.get("choices")
    if choices and isinstance(value, str) and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{name!r} has no choice {value!r}", f"{hint}allowed: {', '.join(choices)}"
    return None


def _is(value: Any, kind: str) -> bool:
    if kind == "true or false":
        return isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    expected: dict[str, type] = {"text": str, "list": list, "table": dict}
    return kind in expected and isinstance(value, expected[kind])


def _article(wanted: str) -> str:
    return (
        wanted if wanted.startswith(("true", "text")) else f"a {wanted}".replace("a int", "an int")
    )


def _shown(value: Any) -> str:
    return f"{_NAMES.get(type(value), type(value).__name__)} ({value!r})"


def main() -> None:
    """Write the table for the installed libraries."""
    FILE.write_text(json.dumps(generate(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{FILE.name}: {len(shipped()['transformers'])} arguments\n")


if __name__ == "__main__":
    main()
