"""LoRA training speed and memory: ours, a hand-written loop, bare TRL; bf16 and packing.

Every contestant trains the packaged 135M model, LoRA rank 8 on all linear layers, 4 x 256 tokens,
AdamW, in a process of its own; rounds are interleaved, the first step of each is not timed.
Seconds are CPU seconds of the process, so that a busy machine does not decide.

``LLAMAFACTORY_PYTHON`` names a Python that has LLaMA-Factory (it pins older libraries, so that it
needs an environment of its own: ``pip install torch==2.13.0 llamafactory==0.9.5``); without it that
contestant is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTH, BATCH, RANK = 256, 4, 8
STEPS = int(os.environ.get("BENCH_STEPS", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
THREADS = int(os.environ.get("BENCH_THREADS", "1"))
PEER_PYTHON = "LLAMAFACTORY_PYTHON"
CONTESTANTS = (
    *("hand", "ours", "trl", "llamafactory", "ours-bf16", "hand-bf16"),
    *("house-full", "house-padded", "house-packed"),
    *("docs-full", "docs-padded", "docs-free", "docs-packed"),
)


class Clock:
    """CPU seconds between the end of the first step and the end of the last."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        self.marks.append(time.process_time())

    @property
    def seconds(self) -> float:
        return self.marks[-1] - self.marks[0]


def base_folder() -> Path:
    from engine.models import resolve_model
    from engine.paths import StatePaths
    from recipes.loading import ensure_base

    paths = StatePaths.default().ensure()
    return ensure_base(resolve_model("smollm2-135m-instruct", paths), paths)


def full_rows(count: int) -> list[list[int]]:
    """Rows of exactly ``LENGTH`` tokens of the neutral text, every token learned."""
    from transformers import AutoTokenizer

    from engine.data.source import BUNDLED

    folder = Path(__file__).parents[1] / "assets" / "data"
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    ids = tokenizer((folder / BUNDLED["neutral"]).read_text())["input_ids"]
    return [[ids[(i * 61 + j) % len(ids)] for j in range(LENGTH)] for i in range(count)]


def paragraph_rows() -> list[list[int]]:
    """Rows of natural, different lengths: every paragraph of the bundled documents."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    folder = Path(__file__).parents[1] / "assets" / "data" / "docs"
    texts = [t for file in sorted(folder.glob("*.md")) for t in file.read_text().split("\n\n")]
    rows = [tokenizer(t)["input_ids"] for t in texts if t.strip()]
    return [row[:LENGTH] for row in rows if len(row) > 1]


def peft_model(dtype: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=dtype)
    model.config.use_cache = False
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=16, target_modules="all-linear")
    return get_peft_model(model, config).train()


def hand(bf16: bool) -> dict[str, float]:
    """The loop anyone would write."""
    import torch

    model = peft_model(torch.float32)
    rows = torch.tensor(full_rows(BATCH * (STEPS + 1)))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    clock, losses = Clock(), []
    for step in range(STEPS + 1):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        clock.mark()
    return result(clock, STEPS * BATCH * LENGTH, losses[-1])


def filled(collate: Any) -> Any:
    """``collate`` with every batch padded to ``LENGTH``, whatever its rows."""
    import torch

    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}

    def to_length(items: Any) -> dict[str, Any]:
        batch = collate(items)
        more = LENGTH - batch["input_ids"].shape[1]
        return {
            key: torch.nn.functional.pad(value, (0, more), value=fill[key])
            for key, value in batch.items()
        }

    return to_length


def ours(bf16: bool, rows: str = "blocks", layout: str = "padded") -> dict[str, float]:
    """Our trainer, set up as a run does, on the same rows or on short ones.

    Args:
        bf16: autocast.
        rows: ``blocks`` (of ``LENGTH`` tokens), ``house`` (the bundled conversations) or ``docs``
            (the bundled documents' paragraphs).
        layout: ``full`` (padded to ``LENGTH``, as some trainers do), ``padded`` (to the longest
            of the batch), ``free`` (padding-free) or ``packed``.
    """
    import tempfile

    import numpy as np
    from transformers import TrainingArguments

    from engine.paths import StatePaths
    from engine.worker.context import StepContext
    from recipes.finetune.arguments import training_arguments
    from recipes.finetune.batches import RowDataset, common_beginning
    from recipes.finetune.building import build_model
    from recipes.finetune.memory import settle_memory
    from recipes.finetune.rows import TokenRow, pack, prepare
    from recipes.finetune.schema import FinetuneSpec
    from recipes.finetune.session import open_session
    from recipes.finetune.supervised import choose_batch
    from recipes.finetune.trainer import supervised_trainer
    from recipes.finetune.watching import Watch

    class Marked(Watch):
        def logged(self, step: int, epoch: float, logs: dict[str, float]) -> None:
            super().logged(step, epoch, logs)
            clock.mark()
            seen.append(self.tokens_seen)

        def wants_save(self, step: int) -> bool:
            return False

    spec = FinetuneSpec.model_validate(
        {
            "base": "smollm2-135m-instruct",
            "data": {"train": "house/train", "max_length": LENGTH},
            "train": {
                "rank": RANK,
                "batch": BATCH,
                "lr": 1e-4,
                "max_steps": STEPS + 1,
                "schedule": "constant",
                "packing": layout == "packed",
                "padding_free": layout == "free",
                "precision": "bf16" if bf16 else "fp32",
            },
        }
    )
    settle_memory("cpu")
    clock = Clock()
    seen: list[int] = []
    paths = StatePaths.default().ensure()
    paths.run_dir("bench").mkdir(parents=True, exist_ok=True)
    ctx = StepContext(
        job_id="bench", job_name="bench", step="train", attempt=1, kind="finetune", params=spec,
        paths=paths, work_dir=Path(tempfile.mkdtemp()), recipe_sha256="", recipe_dir=None,
        threads=THREADS, device="cpu",
    )  # fmt: skip
    session = open_session(ctx, spec)
    if rows == "house":
        kept = prepare(spec, session.encoder, paths, LENGTH).train
    else:
        found = paragraph_rows() if rows == "docs" else full_rows(BATCH * (STEPS + 1))
        kept = [TokenRow(np.array(r, np.int32), np.ones(len(r), bool)) for r in found]
    packs = pack(kept, LENGTH, common_beginning(kept)) if layout == "packed" else None
    model = build_model(spec, session.location, session.precision, "cpu", paths)
    args = TrainingArguments(**training_arguments(ctx, spec, STEPS + 1, BATCH))
    collate = choose_batch(spec, model, 0)
    if layout == "full":
        collate = filled(collate)
    watch = Marked(ctx, spec, "", STEPS + 1)
    supervised_trainer(
        model, args, RowDataset(kept, packs), collate, watch, session.precision
    ).train()
    return result(clock, seen[-1] - seen[0], watch.last_loss)


def trl() -> dict[str, float]:
    """Bare TRL with the same settings, its defaults that differ switched off."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock = Clock()
    losses = []

    class Marks(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                clock.mark()
                losses.append(logs["loss"])

    rows = full_rows(BATCH * (STEPS + 1))
    args = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=STEPS + 1,
        learning_rate=1e-4, lr_scheduler_type="constant", max_length=LENGTH, bf16=False,
        gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True, packing=False, dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=peft_model(torch.float32),
        args=args,
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        callbacks=[Marks()],
    )
    trainer.train()
    return result(clock, STEPS * BATCH * LENGTH, losses[-1])


def save_in_fp32(folder: Path) -> None:
    """A copy of the base in fp32: on a CPU LLaMA-Factory computes in the type of the files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_folder()).save_pretrained(folder)


def llamafactory(bf16: bool) -> dict[str, float]:
    """LLaMA-Factory in its own environment, on the same rows."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = base_folder()
        if not bf16:
            model = folder / "fp32"
            save_in_fp32(model)
        task = {
            "model": str(model), "rank": RANK, "length": LENGTH, "batch": BATCH,
            "steps": STEPS + 1, "threads": THREADS, "bf16": bf16,
        }  # fmt: skip
        (folder / "task.json").write_text(json.dumps(task))
        (folder / "rows.json").write_text(json.dumps(full_rows(BATCH * (STEPS + 1))))
        peer = str(Path(__file__).with_name("llamafactory_peer.py"))
        command = [os.environ[PEER_PYTHON], "-W", "ignore", peer, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"LLaMA-Factory failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(found.pop("versions"), file=sys.stderr)
    return found


def result(clock: Clock, tokens: int, loss: float) -> dict[str, float]:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": tokens / clock.seconds, "peak": peak, "loss": loss}


def contestant(name: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows, _, layout = name.partition("-")
    if rows in ("house", "docs"):
        return ours(True, rows, layout)
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "hand": lambda: hand(False),
        "hand-bf16": lambda: hand(True),
        "ours": lambda: ours(False),
        "ours-bf16": lambda: ours(True),
        "trl": trl,
        "llamafactory": lambda: llamafactory(False),
        "llamafactory-bf16": lambda: llamafactory(True),
    }
    return ways[name]()


def child(name: str) -> dict[str, float]:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.training", name],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    if len(sys.argv) > 1:
        print(json.dumps(contestant(sys.argv[1])))
        return 0
    base_folder()
    names = os.environ.get("BENCH_ONLY", ",".join(CONTESTANTS)).split(",")
    if PEER_PYTHON not in os.environ:
        names = [name for name in names if not name.startswith("llamafactory")]
        print(f"LLaMA-Factory is left out: {PEER_PYTHON} is not set\n")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            runs[name].append(child(name))
    rate = {n: statistics.median(r["rate"] for r in rows) for n, rows in runs.items()}
    print(f"{STEPS} steps, {ROUNDS} rounds, {THREADS} thread(s); median\n")
    print(
        "| contestant | tokens per CPU-s | spread | peak MiB | last loss |\n|---|---|---|---|---|"
    )
    for name, rows in runs.items():
        rates = [r["rate"] for r in rows]
        peak = statistics.median(r["peak"] for r in rows)
        print(
            f"| {name} | {rate[name]:.1f} | {min(rates):.1f} to {max(rates):.1f} "
            f"| {peak:.0f} | {rows[0]['loss']:.4f} |"
        )
    if "ours" in runs and "trl" in runs:
        peaks = [statistics.median(r["peak"] for r in runs[n]) for n in ("ours", "trl")]
        print(f"\n- peak memory, ours / trl: {peaks[0] / peaks[1]:.2f} (bar 1.05)")
    for first, second, bar in (
        ("ours", "hand", 0.98),
        ("ours", "trl", 1.2),
        ("ours", "llamafactory", 1.0),
        ("ours-bf16", "llamafactory-bf16", 1.0),
        ("ours-bf16", "ours", 1.4),
        ("ours-bf16", "hand-bf16", 0.98),
        ("house-packed", "house-padded", 1.8),
        ("house-packed", "house-full", 1.8),
        ("docs-free", "docs-padded", 1.0),
        ("docs-packed", "docs-padded", 1.8),
        ("docs-packed", "docs-full", 1.8),
    ):
        if first in rate and second in rate:
            ratio = rate[first] / rate[second]
            each = [
                one["rate"] / other["rate"]
                for one, other in zip(runs[first], runs[second], strict=True)
            ]
            print(
                f"- {first} / {second}: {ratio:.2f} ({min(each):.2f} to {max(each):.2f} a round; "
                f"bar {bar})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
