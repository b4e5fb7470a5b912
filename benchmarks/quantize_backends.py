"""The anchor table: every format and backend by the product's one recipe, ranked against it.

``python -m benchmarks quantize_backends`` runs the steps of ``recipes/quantize/backends.toml`` (the
same calibration tokens for all, 8,192) on a dithered copy of the packaged model, as the anchors
were; ``python -m benchmarks.quantize_backends STEP ...`` some of them. All: 40 CPU-minutes, and the
environments of the backends, 6 GB. What is measured stays under ``MODELOPS_BENCH_HOME``: the table
is of everything measured there so far.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.quantize_dither import dithered
from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.recipe import prepare
from engine.recipe.plan import PlannedStep
from engine.worker.context import StepContext
from recipes.measuring.measure import save_json
from recipes.quantize.run import run
from recipes.quantize.schema import QuantizeSpec

RECIPE = Path(__file__).parents[1] / "recipes" / "quantize" / "backends.toml"

#: (step of the recipe, its level) -> what it is, and its mean KL in the anchor table, if there.
#: llm-compressor's own default orders the columns by activation; its anchor was made without.
ANCHORS: dict[tuple[str, str], tuple[str, float | None]] = {
    ("weighted", "Q8_0"): ("GGUF Q8_0", 0.0050),
    ("weighted", "Q4_K_M"): ("GGUF Q4_K_M, importance matrix", 0.047),
    ("plain", "Q4_K_M"): ("GGUF Q4_K_M", 0.077),
    ("weighted", "IQ4_XS"): ("GGUF IQ4_XS, importance matrix", 0.138),
    ("awq", "awq-4bit-g64"): ("GPTQModel AWQ, g64", 0.156),
    ("autoawq", "awq-4bit-g64"): ("AutoAWQ, corrected, g64", 0.186),
    ("llmcompressor_awq", "awq-4bit-g64"): ("llm-compressor AWQ, g64", 0.190),
    ("gptq", "gptq-4bit-g64"): ("GPTQModel GPTQ, g64", 0.218),
    ("llmcompressor_gptq", "gptq-4bit-g64"): ("llm-compressor GPTQ, g64", None),
    ("llmcompressor_gptq_unordered", "gptq-4bit-g64"): ("the same, columns unordered", 0.250),
    ("plain", "IQ4_XS"): ("GGUF IQ4_XS", 0.252),
    ("autogptq", "gptq-4bit-g64"): ("AutoGPTQ with the CPU shim, g64", 0.307),
    ("nf4", "bnb-nf4"): ("bitsandbytes NF4", 0.332),
    ("hqq", "hqq-4bit-g64"): ("HQQ 4 bit, g64", 0.401),
}


def measure(step: PlannedStep, home: Path) -> list[dict[str, Any]]:
    """Run one step of the recipe in this process; its levels, as its report has them."""
    from engine.registry import Registry
    from recipes.quantize.bench import prepare_bench
    from recipes.quantize.run import link_or_copy, open_source

    paths = StatePaths(home).ensure()
    job = f"bench-{step.name}"
    work = paths.step_work(job, step.name)
    for folder in (paths.run_dir(job), work):
        folder.mkdir(parents=True, exist_ok=True)
    spec = QuantizeSpec.model_validate(step.params)
    # the anchors know one text: the recipe's second, neutral one is left out here
    spec = spec.model_copy(update={"eval": spec.eval.model_copy(update={"neutral": None})})
    threads = os.cpu_count() or 1
    ctx = StepContext(
        job, job, step.name, 1, "quantize", spec, paths, work, "0" * 64, None, threads, "cpu"
    )
    # what the source predicts is the same for every step: computed once, kept beside the rows
    plain = spec.model_copy(update={"format": "bnb-nf4"})  # no importance matrix
    shared = replace(ctx, work_dir=home / "references", params=plain)
    shared.work_dir.mkdir(exist_ok=True)
    prepare_bench(shared, plain, open_source(shared, plain), None)
    for file in (*shared.work_dir.glob("reference-*.f16"), shared.work_dir / "answers.npz"):
        if not (work / file.name).exists():
            link_or_copy(file, work / file.name)
    report = Registry.open(paths).materialize(run(ctx).outputs["report"]) / "report.json"
    levels: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["levels"]
    return levels


def table(found: Path) -> None:
    """Every level measured so far in the anchors' order, and where the two orders differ."""
    print(
        "| what | MB | bits/w | perplexity | KL mean | ± | KL p99 | top-1 % | memory MB "
        "| seconds | anchor's KL |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    done: list[tuple[str, float, float, float]] = []
    for (step, name), (title, anchor) in ANCHORS.items():
        file = found / f"{step}.json"
        levels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        for level in (entry for entry in levels if entry["level"] == name):
            m = next(iter(level["measured"].values()))
            if anchor is not None:
                done.append((title, anchor, m["kl"], m["kl_error"]))
            print(
                f"| {title} | {level['size_bytes'] / 1e6:.1f} | {level['bits_per_weight']:.2f} "
                f"| {m['perplexity']:.2f} | {m['kl']:.4f} | {m['kl_error']:.4f} "
                f"| {m['kl_p99']:.2f} | {100 * m['top1']:.1f} | {level['memory_bytes'] / 1e6:.0f} "
                f"| {level['seconds']:.0f} | {anchor or '-'} |",
                flush=True,
            )
    pairs = list(combinations(done, 2))
    swapped = [(a, b) for a, b in pairs if (a[2] > b[2]) == (a[1] < b[1])]
    print(f"\nPairs in the anchors' order: {len(pairs) - len(swapped)} of {len(pairs)}.")
    for a, b in swapped:
        error = (a[3] ** 2 + b[3] ** 2) ** 0.5
        print(
            f"Not: {a[0]} and {b[0]}: {a[2]:.4f} and {b[2]:.4f}, apart by "
            f"{abs(a[2] - b[2]) / max(error, 1e-9):.1f} standard errors (anchors: {a[1]}, {b[1]})."
        )


def main() -> None:
    """Measure the named steps (all of them without a name), then print the table."""
    home = Path(os.environ.get("MODELOPS_BENCH_HOME") or tempfile.mkdtemp(prefix="quantize-bench-"))
    found = home / "anchors"
    found.mkdir(parents=True, exist_ok=True)
    model = dithered(home)
    plan = prepare(RECIPE, [f"vars.model={json.dumps(str(model))}"], StatePaths(home))
    steps = {step.name: step for step in plan.steps}
    for name in sys.argv[1:] or [n for n in steps if not (found / f"{n}.json").is_file()]:
        began = time.monotonic()
        try:
            save_json(found / f"{name}.json", measure(steps[name], home))
        except ModelOpsError as error:
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    table(found)


if __name__ == "__main__":
    main()
