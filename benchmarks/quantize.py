"""Conversion, quantization, importance matrix and evaluation against llama.cpp's own tools and
bare passes.

Set ``LLAMA_CPP_TOOLS`` to a folder with ``llama-quantize`` and ``convert_hf_to_gguf.py`` (from the
sdist of llama-cpp-python; ``GGUF_PY`` may name its ``gguf-py``) to compare with them; without it
those lines are left out. ``python -m benchmarks.quantize conversion quantization evaluation`` runs
the named parts; ``BENCH_TOKENS`` tokens are evaluated (4,096).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.models import resolve_model
from engine.paths import StatePaths

TOKENS, WINDOW, REPEATS = int(os.environ.get("BENCH_TOKENS", "4096")), 512, 2
THREADS = os.cpu_count() or 1


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU-seconds of this process in ``work``, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


#: Linux counts the memory of the process that forked to a command's peak: a small one forks it.
_LAUNCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_pid, status, used = os.wait4(process.pid, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def child(command: list[str]) -> tuple[float, float]:
    """CPU-seconds and peak MB of one command."""
    launch = [sys.executable, "-S", "-c", _LAUNCH, *command]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-500:])
    cpu, peak = done.stdout.split()
    return float(cpu), float(peak)


def row(what: str, ours: float, theirs: float, bar: float) -> None:
    print(f"| {what} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | <= {bar} |", flush=True)


def conversion(folder: Path, scratch: Path, tools: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from recipes.gguf.convert import convert;"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    mine = [sys.executable, "-c", code, str(folder), str(scratch / "a.gguf")]
    script = str(tools / "convert_hf_to_gguf.py")
    other = [sys.executable, script, str(folder), "--outfile", str(scratch / "b.gguf")]
    ours, theirs = sides(mine, [*other, "--outtype", "bf16"])
    row("HF -> GGUF, CPU-s", ours[0], theirs[0], 1.1)
    row("HF -> GGUF, peak memory MB", ours[1], theirs[1], 1.2)


def sides(mine: list[str], other: list[str]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Both commands in turn: the least CPU-seconds and the least peak memory of each."""
    found = [(child(mine), child(other)) for _ in range(REPEATS)]
    ours, theirs = zip(*found, strict=True)
    best_of = [(min(c for c, _ in side), min(m for _, m in side)) for side in (ours, theirs)]
    return best_of[0], best_of[1]


def quantization(source: Path, scratch: Path, tools: Path) -> None:
    from recipes.gguf.levels import level
    from recipes.gguf.quantizer import Settings, quantize

    code = (
        "import sys; from pathlib import Path; from recipes.gguf.levels import level;"
        "from recipes.gguf.quantizer import Settings, quantize;"
        "quantize(Path(sys.argv[1]), Path(sys.argv[2]), Settings(level(sys.argv[3]), "
        "int(sys.argv[4])))"
    )
    result, reference = scratch / "q.gguf", scratch / "r.gguf"
    for name in ("Q8_0", "Q4_K_M"):
        command = [str(tools / "llama-quantize"), str(source), str(reference), name, str(THREADS)]
        # the libraries are loaded once for a whole ladder: their import is no part of the work
        settings = Settings(level(name), THREADS)
        pairs = [
            (timed(partial(quantize, source, result, settings))[0], child(command)[0])
            for _ in range(REPEATS)
        ]
        row(f"GGUF -> {name}, CPU-s", min(a for a, _ in pairs), min(b for _, b in pairs), 1.1)
        same = result.read_bytes() == reference.read_bytes()
        # memory is a whole process's, Python and its libraries included
        mine = [sys.executable, "-c", code, str(source), str(result), name, str(THREADS)]
        ours, theirs = sides(mine, command)
        row(f"GGUF -> {name}, peak memory MB", ours[1], theirs[1], 1.2)
        print(f"\n{name}: byte-identical to llama-quantize: {same}\n", flush=True)


def evaluation(folder: Path, source: Path, scratch: Path) -> None:
    from recipes.gguf.runtime import GgufModel
    from recipes.gguf.vocabulary import load_tokenizer
    from recipes.measuring.measure import Reference, cut
    from recipes.quantize.importance import hook
    from recipes.quantize.texts import read, stream
    from recipes.quantize.torch_source import load_source

    tokenizer = load_tokenizer(folder)
    name, examples = read("house/train", StatePaths(scratch))
    ids = stream(name, examples, tokenizer, TOKENS).ids
    windows = cut("text", ids, TOKENS, WINDOW)
    torch_model = load_source(folder, threads=THREADS, device="cpu")
    reference = Reference(windows, scratch, torch_model.n_vocab)
    reference.compute(torch_model, lambda _a, _b: None, lambda: None)

    def forward() -> None:
        for window in windows.windows:
            torch_model.forward(window)

    plain = timed(forward)[0]
    handles = hook(torch_model.model, {})
    hooked = timed(forward)[0]
    for handle in handles:
        handle.remove()
    torch_model.close()
    row(f"importance matrix / one forward pass, {TOKENS} tokens, CPU-s", hooked, plain, 2)
    with GgufModel(source, context=WINDOW, threads=THREADS) as model:

        def bare() -> None:
            for window in windows.windows:
                model.logits(window)

        bare()
        passes = timed(bare)[0]
        measured, found = timed(lambda: reference.measure(model, lambda _a, _b: None, lambda: None))
    row(f"perplexity and KL / bare pass, {TOKENS} tokens, CPU-s", measured, passes, 1.3)
    print(f"\nKL of the unquantized GGUF: {found.kl:.6f}\n", flush=True)


def main() -> None:
    from recipes.gguf.convert import convert
    from recipes.loading import ensure_base

    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        paths = StatePaths(scratch / "home").ensure()
        folder = ensure_base(resolve_model("smollm2-135m-instruct", paths), paths)
        source = scratch / "source.gguf"
        convert(folder, source)
        print("| what | ours | other | ratio | bar |\n|---|---|---|---|---|", flush=True)
        tools = os.environ.get("LLAMA_CPP_TOOLS")
        wanted = sys.argv[1:] or ["conversion", "quantization", "evaluation"]
        if tools and "conversion" in wanted:
            conversion(folder, scratch, Path(tools))
        if tools and "quantization" in wanted:
            quantization(source, scratch, Path(tools))
        if "evaluation" in wanted:
            evaluation(folder, source, scratch)


if __name__ == "__main__":
    main()
