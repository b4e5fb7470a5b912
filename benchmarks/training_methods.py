"""Every method of fine-tuning on the packaged 135M model: does it work, how fast, how much memory.

Each line is a whole ``finetune`` step (a few optimizer steps on bundled rows, its artifact
published) in a process of its own; speed is in tokens per CPU second between the first and the last
step, so that a busy machine does not decide. ``resumes`` runs the test that kills the method with
SIGKILL and compares the resumed weights byte for byte (``BENCH_RESUME=0`` leaves it out).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = int(os.environ.get("BENCH_STEPS", "5"))
THREADS = int(os.environ.get("BENCH_THREADS", "1"))
TEST = "tests/recipes/finetune/test_resume.py::test_kill_and_resume_is_bit_identical"
CHAT, PAIRS, THUMBS, ASKED = (
    f"house/{name}" for name in ("train", "preferences", "feedback", "prompts")
)
#: Name to (keys of ``train``, bundled rows, keys of ``preference``, the test's id).
METHODS: dict[str, tuple[dict[str, Any], str, dict[str, Any], str]] = {
    "lora": ({"method": "lora"}, CHAT, {}, "lora"),
    "lora, packed": ({"method": "lora", "packing": True}, CHAT, {}, "packed"),
    "qlora": ({"method": "qlora"}, CHAT, {}, "qlora"),
    "dora": ({"method": "dora"}, CHAT, {}, "dora"),
    "full": ({"method": "full"}, CHAT, {}, "full"),
    "pretrain": ({"method": "pretrain", "batch": 2}, "neutral", {}, "pretrain"),
    "dpo": ({"method": "dpo"}, PAIRS, {}, "dpo"),
    "kto": ({"method": "kto"}, THUMBS, {}, "kto"),
    "orpo": ({"method": "orpo"}, PAIRS, {}, "orpo"),
    "grpo": (
        {"method": "grpo"}, ASKED, {"reward": "house-style", "answer_tokens": 32}, "grpo",
    ),
    "reward": ({"method": "reward", "epochs": 3}, PAIRS, {"head": "both"}, ""),
}  # fmt: skip
#: Methods whose progress is not counted in steps of tokens.
_UNTIMED = frozenset({"reward"})


def line(name: str, home: Path) -> dict[str, Any]:
    """``{"steps", "first", "last", "rate", "peak"}``; losses, tokens per CPU-s, MiB."""
    import resource

    import torch

    from engine.kinds import load_function, load_kinds
    from engine.paths import StatePaths
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

    torch.set_num_threads(THREADS)
    train, rows, preference, _ = METHODS[name]
    data: dict[str, Any] = {"train": rows, "max_length": 256}
    limit = {"max_steps": STEPS + 1}
    if name in _UNTIMED:
        data["eval_fraction"], limit = 0.2, {}
    spec = FinetuneSpec.model_validate(
        {
            "base": os.environ["BENCH_BASE"],
            "data": data,
            "train": {"rank": 8, "batch": 4, "samples": 0, **limit, **train},
            "preference": preference,
        }
    )
    marks: list[tuple[float, int, float]] = []

    class Watched(StepContext):
        def event(self, event_type: str, **fields: Any) -> None:
            super().event(event_type, **fields)
            if event_type == "metrics" and "loss" in fields:
                marks.append((time.process_time(), fields["tokens_seen"], fields["loss"]))

    paths = StatePaths(home).ensure()
    paths.run_dir("bench").mkdir(parents=True)
    ctx = Watched(
        job_id="bench", job_name="bench", step="train", attempt=1, kind="finetune", params=spec,
        paths=paths, work_dir=paths.step_work("bench", "train"), recipe_sha256="0" * 64,
        recipe_dir=None, threads=THREADS, device="cpu",
    )  # fmt: skip
    ctx.work_dir.mkdir(parents=True)
    result = load_function(load_kinds().get("finetune").run)(ctx)
    if not result.outputs["model"]:
        raise SystemExit(f"{name} published nothing")
    (began, before, first), (ended, after, last) = marks[0], marks[-1]
    rate = 0.0 if name in _UNTIMED else (after - before) / (ended - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"steps": len(marks), "first": first, "last": last, "rate": rate, "peak": peak}


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
            [sys.executable, "-W", "ignore", "-m", "benchmarks.training_methods", name, home],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def resumes(test: str) -> str:
    """What the method's own test says: ``yes`` or ``no``; empty where there is none."""
    if not test or os.environ.get("BENCH_RESUME") == "0":
        return ""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "nightly or not nightly"]
    command += ["-p", "no:cacheprovider", f"{TEST}[{test}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{'yes' if done.returncode == 0 else 'no'} (`[{test}]`)"


def main() -> int:
    if len(sys.argv) > 2:
        print(json.dumps(line(sys.argv[1], Path(sys.argv[2]))))
        return 0
    from benchmarks.training import base_folder

    base, wrong = base_folder(), 0
    print(f"{STEPS} timed steps, {THREADS} thread(s); resumes: `{TEST}`\n")
    print(
        "| method | steps | loss, first to last | tokens per CPU-s | peak MiB | resumes exactly |"
    )
    print("|---|---|---|---|---|---|")
    for name in os.environ["BENCH_ONLY"].split(";") if "BENCH_ONLY" in os.environ else METHODS:
        found, again = child(name, base), resumes(METHODS[name][3])
        wrong += "failed" in found or again.startswith("no")
        if "failed" in found:
            print(f"| {name} | failed: {found['failed']} | | | | {again} |", flush=True)
            continue
        rate = f"{found['rate']:.0f}" if found["rate"] else ""
        print(
            f"| {name} | {found['steps']} | {found['first']:.3f} to {found['last']:.3f} | {rate} "
            f"| {found['peak']:,.0f} | {again} |",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
