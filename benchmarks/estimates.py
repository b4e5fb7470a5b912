"""The fit estimate beside the measured peak, before anything was measured on this machine.

Each line is one whole ``finetune`` step of a few optimizer steps in a process of its own, on the
packaged 135M model and the bundled rows; the estimate is taken first, without past runs to correct
it. ``BENCH_ONLY`` names lines; a line outside -5 % to +10 % fails the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

STEPS = int(os.environ.get("BENCH_STEPS", "3"))
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
LEAST, MOST = 0.95, 1.10
#: Name to (keys of ``train``, training rows, ``max_length``).
LINES: dict[str, tuple[dict[str, Any], str, int]] = {
    "lora bf16, batch 4": ({"precision": "bf16"}, "house/train", 256),
    "lora bf16, batch 16": ({"precision": "bf16", "batch": 16}, "house/train", 256),
    "lora fp32, batch 16": ({"precision": "fp32", "batch": 16}, "house/train", 256),
    "lora bf16, packed 4 x 256": ({"precision": "bf16", "packing": True}, "house/train", 256),
    "lora fp32, packed 4 x 256": ({"precision": "fp32", "packing": True}, "house/train", 256),
    "lora bf16, batch 16, checkpointing": (
        {"precision": "bf16", "batch": 16, "checkpointing": True}, "house/train", 256,
    ),
    "lora bf16, dropout, batch 16": (
        {"precision": "bf16", "batch": 16, "dropout": 0.05}, "house/train", 256,
    ),
    "qlora bf16, batch 16": (
        {"method": "qlora", "precision": "bf16", "batch": 16}, "house/train", 256,
    ),
    "full bf16, batch 4": ({"method": "full", "precision": "bf16"}, "house/train", 256),
    "full fp32, batch 4": ({"method": "full", "precision": "fp32"}, "house/train", 256),
}  # fmt: skip


def line(name: str, home: Path) -> dict[str, Any]:
    """``{"told", "peak", "parts"}`` of one line; bytes."""
    import resource

    import torch

    from engine.kinds import load_function, load_kinds
    from engine.paths import StatePaths
    from engine.types.system import EstimateContext
    from engine.worker.context import StepContext
    from recipes.finetune.fit import estimate
    from recipes.finetune.schema import FinetuneSpec

    torch.set_num_threads(THREADS)
    train, rows, length = LINES[name]
    spec = FinetuneSpec.model_validate(
        {
            "base": os.environ["BENCH_BASE"],
            "data": {"train": rows, "max_length": length},
            "train": {
                "rank": 8, "batch": 4, "max_steps": STEPS, "samples": 0, **train,
                # the batch with the longest row comes first: a few steps show a whole run's peak
                "group_by_length": not train.get("packing"),
            },
        }
    )  # fmt: skip
    paths = StatePaths(home).ensure()
    paths.run_dir("bench").mkdir(parents=True)
    told = estimate(spec, EstimateContext(paths, "cpu"))
    ctx = StepContext(
        job_id="bench", job_name="bench", step="train", attempt=1, kind="finetune", params=spec,
        paths=paths, work_dir=paths.step_work("bench", "train"), recipe_sha256="0" * 64,
        recipe_dir=None, threads=THREADS, device="cpu",
    )  # fmt: skip
    ctx.work_dir.mkdir(parents=True)
    load_function(load_kinds().get("finetune").run)(ctx)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"told": told.memory_bytes, "peak": peak, "parts": asdict(told)["parts"]}


def child(name: str, base: Path) -> dict[str, Any]:
    env = {
        **os.environ,
        "BENCH_BASE": str(base),
        "OMP_NUM_THREADS": str(THREADS),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.estimates", name, home],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    if len(sys.argv) > 2:
        print(json.dumps(line(sys.argv[1], Path(sys.argv[2]))))
        return 0
    from benchmarks.training import base_folder

    base = base_folder()
    wanted = os.environ.get("BENCH_ONLY")
    print("| run | estimated MiB | measured MiB | ratio | parts MiB |\n|---|---|---|---|---|")
    missed = 0
    for name in wanted.split(";") if wanted else LINES:
        found = child(name, base)
        ratio = found["told"] / found["peak"]
        missed += not LEAST <= ratio <= MOST
        parts = ", ".join(f"{key} {value >> 20}" for key, value in found["parts"].items())
        told, peak = found["told"] >> 20, found["peak"] >> 20
        print(f"| {name} | {told:,} | {peak:,} | {ratio:.3f} | {parts} |", flush=True)
    print(f"\n- outside {LEAST} to {MOST}: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
