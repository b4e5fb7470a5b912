"""Our workers against the backends' own shortest scripts: wall and CPU time.

Both run in the same locked environment on the same calibration token ids with the same settings,
one after the other in every round; start of the interpreter and loading of the libraries count.
``python -m benchmarks.quantize_scripts [gptqmodel-gptq | gptqmodel-awq | llmcompressor-gptq |
llmcompressor-awq ...]``; ``BENCH_TOKENS`` calibration tokens (2,048), ``BENCH_ROUNDS`` rounds (2),
``BENCH_LAYERS`` layers of the packaged 135M model (all 30).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.backends import BackendProcess, BackendStore, find
from engine.backends.environment import clean_environment
from engine.models import resolve_model
from engine.paths import StatePaths

TOKENS = int(os.environ.get("BENCH_TOKENS", "2048"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
LAYERS = int(os.environ.get("BENCH_LAYERS", "30"))
WINDOW, GROUP, THREADS = 512, 64, os.cpu_count() or 1

_ROWS = """
import json, sys
source, output, calibration = sys.argv[1:4]
rows = json.load(open(calibration))
"""
_GPTQMODEL = (
    _ROWS
    + """
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
model = GPTQModel.load(source, QuantizeConfig(bits=4, group_size=64, device="cpu", {settings}))
data = [{{"input_ids": row, "attention_mask": [1] * len(row)}} for row in rows]
model.quantize(data, batch_size=1, backend=BACKEND.{backend})
model.save(output)
"""
)
_LLMCOMPRESSOR = (
    _ROWS
    + """
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from transformers import AutoModelForCausalLM
torch.Tensor.pin_memory = lambda self, *a, **k: self
weights = {{"num_bits": 4, "type": "int", "symmetric": {symmetric}, "strategy": "group",
           "group_size": 64}}
groups = {{"group_0": {{"targets": ["Linear"], "weights": weights}}}}
settings = {{"ignore": ["lm_head"], "config_groups": groups}}
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
data = Dataset.from_dict({{"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}})
oneshot(model=model, recipe={recipe}, dataset=data, num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)), shuffle_calibration_samples=False)
model.save_pretrained(output, save_compressed=True)
"""
)


@dataclass(frozen=True)
class Pair:
    """One backend and format, and the backend's own script for it."""

    backend: str
    format: str
    script: str


PAIRS = {
    "gptqmodel-gptq": Pair("gptqmodel", "gptq", _GPTQMODEL.format(settings="", backend="TORCH")),
    "gptqmodel-awq": Pair(
        "gptqmodel",
        "awq",
        _GPTQMODEL.format(
            settings='quant_method="awq", format="gemm", sym=False', backend="AWQ_TORCH"
        ),
    ),
    "llmcompressor-gptq": Pair(
        "llmcompressor",
        "gptq",
        _LLMCOMPRESSOR.format(symmetric=True, recipe="[GPTQModifier(**settings)]"),
    ),
    "llmcompressor-awq": Pair(
        "llmcompressor",
        "awq",
        _LLMCOMPRESSOR.format(
            symmetric=False, recipe="[AWQModifier(), QuantizationModifier(**settings)]"
        ),
    ),
}


@dataclass(frozen=True)
class Cost:
    """What one run took; the smallest of the rounds counts."""

    wall: float
    cpu: float


def timed(work: Callable[[], None]) -> Cost:
    """Wall and CPU seconds of ``work`` and of the processes it started and waited for."""
    began, before = time.monotonic(), _cpu()
    work()
    return Cost(time.monotonic() - began, _cpu() - before)


def _cpu() -> float:
    found = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        found += usage.ru_utime + usage.ru_stime
    return found


def calibration(folder: Path, target: Path, paths: StatePaths) -> None:
    """Write the token windows that both sides are calibrated on."""
    from recipes.gguf.vocabulary import load_tokenizer
    from recipes.measuring.measure import cut
    from recipes.quantize.texts import read, stream

    name, examples = read("house/train", paths)
    ids = stream(name, examples, load_tokenizer(folder), TOKENS).ids
    target.write_text(json.dumps([list(w) for w in cut(name, ids, TOKENS, WINDOW).windows]))


def first_layers(source: Path, target: Path, layers: int) -> Path:
    """A copy of the model with its first layers only."""
    from safetensors.torch import load_file, save_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if layers >= config["num_hidden_layers"]:
        return source
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config["num_hidden_layers"] = layers
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    kept = {
        name: tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
    }
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def compare(name: str, source: Path, scratch: Path, python: Path) -> None:
    """Run the rounds of one pair and print its row."""
    pair = PAIRS[name]
    spec = find(pair.backend)
    rows = scratch / "calibration.json"
    request: dict[str, Any] = {
        "source": str(source),
        "format": pair.format,
        "bits": 4,
        "group_size": GROUP,
        "device": "cpu",
        "threads": THREADS,
        "seed": 0,
        "options": {},
        "calibration": str(rows),
        "output": str(scratch / "ours"),
        "scratch": str(scratch / "kept"),
    }
    script = scratch / "script.py"
    script.write_text(pair.script)
    env = {**clean_environment(), "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    env |= {"OMP_WAIT_POLICY": "passive", "GPTQMODEL_CPU_WORKERS": str(max(THREADS, 2))}
    env["TOKENIZERS_PARALLELISM"] = "false"

    def theirs() -> None:
        command = [str(python), "-I", str(script), str(source), str(scratch / "theirs"), str(rows)]
        log = scratch / "script.log"
        with open(log, "wb") as out:
            subprocess.run(command, env=env, stdout=out, stderr=out, cwd=scratch, check=True)

    def ours() -> None:
        with BackendProcess(spec, python, scratch / "worker.log", threads=THREADS) as process:
            process.call("quantize", request)

    costs: dict[str, list[Cost]] = {"ours": [], "theirs": []}
    for number in range(ROUNDS):
        sides = [("theirs", theirs), ("ours", ours)]
        for side, work in sides if number % 2 == 0 else reversed(sides):
            for leftover in (side, "kept"):
                shutil.rmtree(scratch / leftover, ignore_errors=True)
            (scratch / "kept").mkdir()
            costs[side].append(timed(work))
    for what in ("cpu", "wall"):
        mine = min(getattr(c, what) for c in costs["ours"])
        other = min(getattr(c, what) for c in costs["theirs"])
        ratio = mine / other
        print(
            f"| {name}, {what} s | {mine:.1f} | {other:.1f} | {ratio:.3f} | <= 1.05 |", flush=True
        )
    every = "; ".join(
        f"{side} {', '.join(f'{c.cpu:.1f}/{c.wall:.1f}' for c in found)}"
        for side, found in costs.items()
    )
    print(f"\n{name}: every round (CPU/wall s): {every}. {_same(scratch)}\n", flush=True)


def _same(scratch: Path) -> str:
    """Whether both sides ended with the same tensors."""
    from safetensors.torch import load_file

    both = []
    for side in ("ours", "theirs"):
        tensors: dict[str, Any] = {}
        for file in sorted((scratch / side).glob("*.safetensors")):
            tensors |= load_file(file)
        both.append(tensors)
    mine, other = both
    if mine.keys() != other.keys():
        return f"Other tensors: {sorted(mine.keys() ^ other.keys())[:4]}."
    different = [name for name in mine if not mine[name].equal(other[name])]
    return f"Equal tensors: {len(mine) - len(different)} of {len(mine)}."


def main() -> None:
    """Compare the named pairs (GPTQModel's GPTQ without a name)."""
    from recipes.loading import ensure_base

    wanted = sys.argv[1:] or ["gptqmodel-gptq"]
    given = os.environ.get("MODELOPS_BENCH_HOME")
    home = Path(given or tempfile.mkdtemp(prefix="quantize-scripts-"))
    paths = StatePaths(home).ensure()
    packaged = ensure_base(resolve_model("smollm2-135m-instruct", paths), paths)
    print(
        f"{LAYERS} layers of the 135M model, {TOKENS} calibration tokens, g{GROUP}, "
        f"{THREADS} threads; best of {ROUNDS} interleaved rounds\n"
    )
    print("| what | our worker | its own script | ratio | bar |\n|---|---|---|---|---|", flush=True)
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="quantize-scripts-") as place:
            scratch = Path(place)
            source = first_layers(packaged, scratch / "source", LAYERS)
            calibration(packaged, scratch / "calibration.json", paths)
            python = BackendStore(paths).ensure(find(PAIRS[name].backend))
            compare(name, source, scratch, python)


if __name__ == "__main__":
    main()
