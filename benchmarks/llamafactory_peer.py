"""LLaMA-Factory's own trainer on the rows of ``benchmarks.training``; runs in its own environment.

``python benchmarks/llamafactory_peer.py FOLDER`` with a Python that has LLaMA-Factory; FOLDER holds
``task.json`` (model folder, rank, batch, steps, threads, bf16) and ``rows.json`` (token ids).
Nothing of this repository is imported: the versions differ.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import types
from importlib import import_module, metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def without_audio() -> None:
    """An empty torchaudio where none can be loaded: it is imported at once, for audio rows only.

    PyPI's torchaudio and torchvision are built for CUDA and don't load beside a CPU build of torch.
    """
    try:
        import_module("torchaudio")
    except (ImportError, OSError):
        empty = types.ModuleType("torchaudio")
        empty.__spec__ = ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = empty


def settings(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """The same task in LLaMA-Factory's words; what its defaults would change is said."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": task["model"],
        "template": "default",
        "dataset": "in tokenized_path",
        "tokenized_path": str(folder / "tokens"),
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": task["rank"],
        "lora_alpha": 2 * task["rank"],
        "lora_dropout": 0.0,
        "cutoff_len": task["length"],
        "per_device_train_batch_size": task["batch"],
        "gradient_accumulation_steps": 1,
        "max_steps": task["steps"],
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "bf16": task["bf16"],
        "disable_gradient_checkpointing": True,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "plot_loss": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "output_dir": str(folder / "out"),
        "seed": 0,
    }


def train(folder: Path) -> dict[str, Any]:
    """Train; ``{"rate": tokens per CPU second, "peak": MiB, "loss", "versions"}``."""
    import torch
    from datasets import Dataset, DatasetDict

    task = json.loads((folder / "task.json").read_text())
    rows = json.loads((folder / "rows.json").read_text())
    torch.set_num_threads(task["threads"])
    columns = {"input_ids": rows, "labels": rows, "attention_mask": [[1] * len(r) for r in rows]}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(folder / "tokens"))

    without_audio()
    run_exp = import_module("llamafactory.train.tuner").run_exp
    from transformers import TrainerCallback

    marks: list[float] = []
    losses: list[float] = []

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                marks.append(time.process_time())
                losses.append(float(logs["loss"]))

    run_exp(settings(folder, task), callbacks=[Marks()])
    tokens = (task["steps"] - 1) * task["batch"] * task["length"]
    names = ("llamafactory", "torch", "transformers", "peft")
    return {
        "rate": tokens / (marks[-1] - marks[0]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": losses[-1],
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in names),
    }


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]))))
