"""Accepted -> first training step, cold and with a hot spare, beside a bare ``python train.py``.

    python -m benchmarks.first_step [--rounds N]

Three ways to the same optimizer step (LoRA of rank 4 on the tests' 1.4M model, batch 2, CPU): a
script as people write it (transformers' ``Trainer`` and peft), a recipe in a cold worker, and the
recipe in a spare worker that has done its imports. The script's clock runs from its start to the
end of its first step, ours from the return of ``submit`` to the first ``metrics`` event. Rounds are
interleaved, so that a busy machine is busy for all of them. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from engine.recipe import prepare  # noqa: E402
from engine.recipe.plan import Plan  # noqa: E402
from tests.faults.harness import Harness  # noqa: E402
from tests.support.tiny_model import build_tiny_model, chat_rows, write_jsonl  # noqa: E402

#: What a supervised run imports; the engine's setting of the same name takes it as it stands.
IMPORTS = (
    "torch,transformers.trainer,transformers.models.llama.modeling_llama,peft,safetensors.torch"
)

SCRIPT = """\
import json, sys, time
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback
from transformers import TrainingArguments

folder, data, out = sys.argv[1:]

class FirstStep(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        print("step", time.time(), flush=True)

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
rows = []
for line in open(data):
    text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
    ids = tokenizer(text, truncation=True, max_length=192, padding="max_length")["input_ids"]
    rows.append({"input_ids": ids, "labels": ids})
arguments = TrainingArguments(
    out, per_device_train_batch_size=2, learning_rate=1e-3, max_steps=1, use_cpu=True,
    report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
)
Trainer(model, arguments, train_dataset=rows, callbacks=[FirstStep()]).train()
"""

RECIPE = """\
recipe = 1
name = "first-step"
kind = "finetune"
base = {base!r}
data = {{ train = {train!r}, max_length = 192 }}
[train]
method = "lora"
lr = 1e-3
rank = 4
batch = 2
max_steps = 1
samples = 0
[resources]
threads = 1
device = "cpu"
"""

WAYS = ("bare `python train.py`", "a recipe, cold worker", "a recipe, hot spare")


def bare(folder: Path, model: Path, data: Path) -> float:
    """Seconds from the script's start to the end of its first optimizer step."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    begin = time.time()
    done = subprocess.run(
        [sys.executable, str(script), str(model), str(data), str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith("step "))
    return float(line.split()[1]) - begin


def through_the_engine(harness: Harness, plan: Plan) -> float:
    """Seconds from the return of ``submit`` to the first step's event."""
    job = harness.jobs.submit(plan).id
    accepted = time.time()
    harness.accepted = [job]
    (view,) = harness.wait_ended(600, keep_engine=False)
    first = next(e for e in harness.jobs.events(job).events if e["type"] == "metrics")
    if view.error is not None or first["done"] != 1:
        raise RuntimeError(f"{view.error}, {first}")
    return float(first["t"]) - accepted


def spare_is_ready(harness: Harness) -> None:
    """Wait until the spare worker has imported peft, the last of the large ones."""

    def loaded() -> bool:
        maps = [Path(f"/proc/{pid}/maps") for pid in harness.marked()["worker"]]
        return any("safetensors" in file.read_text() for file in maps if file.exists())

    harness.wait_for(loaded)
    time.sleep(1.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="bench-first-step-") as name:
        folder = Path(name)
        harness = Harness(folder)
        model = Path(build_tiny_model(folder / "tiny"))
        data = write_jsonl(folder / "train.jsonl", chat_rows(40))
        text = RECIPE.format(base=str(model), train=str(data))
        plan = prepare(text, paths=harness.paths)
        try:
            for _ in range(options.rounds):
                times[WAYS[0]].append(bare(folder, model, data))
                harness.paths.config.write_text("[engine]\n")
                harness.start_engine()
                times[WAYS[1]].append(through_the_engine(harness, plan))
                harness.stop_engine()
                harness.paths.config.write_text(
                    f"[engine]\nhot_spare = true\nhot_spare_imports = {json.dumps(IMPORTS)}\n"
                )
                harness.start_engine()
                spare_is_ready(harness)
                times[WAYS[2]].append(through_the_engine(harness, plan))
                harness.stop_engine()
                print({way: round(values[-1], 2) for way, values in times.items()}, file=sys.stderr)
        finally:
            harness.close()
    first = statistics.median(times[WAYS[0]])
    print(f"Medians of {options.rounds} interleaved rounds.\n")
    print("| accepted (started) -> end of the first optimizer step | s | of the script |")
    print("|---|---|---|")
    for way, values in times.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"| {way} | {middle:.2f} ({spread}) | {middle / first:.2f}x |")


if __name__ == "__main__":
    main()
