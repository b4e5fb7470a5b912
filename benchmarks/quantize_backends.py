"""Every format and backend on the packaged 135M model, measured alike, ranked against the anchor
figures.

``python -m benchmarks.quantize_backends [NAME ...]`` runs some of them (all: half an hour of CPU,
and the environments of the backends, 6 GB). The anchors are KL divergences measured on another
text and a dithered copy of the model: only their order within a family means something.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.worker.context import StepContext
from recipes.quantize.run import run
from recipes.quantize.schema import QuantizeSpec


@dataclass(frozen=True)
class Entry:
    anchor: float
    """KL of the anchor table."""
    values: dict[str, Any] = field(default_factory=dict)


ENTRIES: dict[str, Entry] = {
    "gguf-q8_0": Entry(0.0050, {"levels": ["Q8_0"]}),
    "gguf-q4_k_m-imatrix": Entry(0.047, {"levels": ["Q4_K_M"], "imatrix": True}),
    "gguf-q4_k_m": Entry(0.077, {"levels": ["Q4_K_M"], "imatrix": False}),
    "gguf-iq4_xs-imatrix": Entry(0.138, {"levels": ["IQ4_XS"], "imatrix": True}),
    "gguf-iq4_xs": Entry(0.252, {"levels": ["IQ4_XS"], "imatrix": False}),
    "gptqmodel-awq": Entry(0.156, {"format": "awq"}),
    "gptqmodel-gptq": Entry(0.218, {"format": "gptq"}),
    "autoawq": Entry(0.186, {"format": "awq", "backend": "autoawq"}),
    "llmcompressor-awq": Entry(0.190, {"format": "awq", "backend": "llmcompressor"}),
    "llmcompressor-gptq": Entry(0.250, {"format": "gptq", "backend": "llmcompressor"}),
    "auto-gptq": Entry(0.307, {"format": "gptq", "backend": "auto-gptq"}),
    "bnb-nf4": Entry(0.332, {"format": "bnb-nf4"}),
    "hqq": Entry(0.401, {"format": "hqq"}),
}


def measure(name: str, entry: Entry, home: Path) -> dict[str, float]:
    values: dict[str, Any] = {
        "model": "smollm2-135m-instruct",
        "group_size": 64,
        "eval": {"data": "house/heldout", "neutral": None, "tokens": 2048},
        "calibration": {"data": "house/train", "tokens": 16384},
        **entry.values,
    }
    paths = StatePaths(home).ensure()
    job = f"bench-{name}"
    paths.run_dir(job).mkdir(parents=True, exist_ok=True)
    work = paths.step_work(job, "quantize")
    work.mkdir(parents=True, exist_ok=True)
    threads = os.cpu_count() or 1
    spec = QuantizeSpec(**values)
    ctx = StepContext(
        job, job, "quantize", 1, "quantize", spec, paths, work, "0" * 64, None, threads, "cpu"
    )
    outputs = run(ctx).outputs
    return {k: float(outputs[k]) for k in ("kl", "perplexity", "size_bytes", "tokens_per_s")}


def main() -> None:
    wanted = sys.argv[1:] or list(ENTRIES)
    home = Path(os.environ.get("MODELOPS_BENCH_HOME") or tempfile.mkdtemp(prefix="quantize-bench-"))
    print("| what | MB | perplexity | KL | anchor KL | tok/s |\n|---|---|---|---|---|---|")
    found: dict[str, float] = {}
    for name in wanted:
        entry = ENTRIES[name]
        try:
            figures = measure(name, entry, home)
        except ModelOpsError as error:
            print(f"| {name} | failed: {error} | | | {entry.anchor} | |", flush=True)
            continue
        found[name] = figures["kl"]
        print(
            f"| {name} | {figures['size_bytes'] / 1e6:.0f} | {figures['perplexity']:.2f} "
            f"| {figures['kl']:.4f} | {entry.anchor} | {figures['tokens_per_s']:.1f} |",
            flush=True,
        )
    pairs = [(a, b) for a in found for b in found if ENTRIES[a].anchor < ENTRIES[b].anchor]
    agreeing = sum(found[a] < found[b] for a, b in pairs)
    print(f"\nPairs in the anchors' order: {agreeing} of {len(pairs)}")


if __name__ == "__main__":
    main()
