"""What this machine has shown: measured peaks and speeds of past runs, and how fast it multiplies.

Every finished run leaves one line in the state directory's cache. The next estimate of a run of the
same kind on the same device is corrected by the median of measured over estimated; where no run
was made yet, time is told from the work in floating point operations and a short measurement.
"""

from __future__ import annotations

import fcntl
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.paths import StatePaths

_KEPT = 400
_LOOKED_AT = 20
#: A correction beyond these says that something else was measured: it is not believed further.
_LEAST, _MOST = 0.5, 3.0
_MEASURE_SECONDS = 60.0
#: The best of five: CPU time, so that a busy machine and numpy's own threads do not count.
_MEASURE = """
import time
import numpy as np
one = np.ones((384, 384), np.float32)
np.dot(one, one)
best = 0.0
for _ in range(5):
    before = time.process_time()
    for _ in range(8):
        np.dot(one, one)
    best = max(best, 8 * 2.0 * 384**3 / max(time.process_time() - before, 1e-6))
print(best)
"""


@dataclass(frozen=True)
class Finished:
    """One finished run. Memory in bytes, speed in tokens per second."""

    method: str
    base: str
    device: str
    precision: str
    threads: int
    checkpointing: bool
    tokens: int
    """Tokens of the largest batch."""
    estimated: int
    """What the parts said, without correction."""
    peak: int
    tokens_per_s: float
    steps: int


def runs_file(paths: StatePaths) -> Path:
    """Where finished runs are kept, one JSON object a line."""
    return paths.cache / "finetune-runs.jsonl"


def remember(paths: StatePaths, run: Finished) -> None:
    """Keep a finished run; the oldest lines make room."""
    file = runs_file(paths)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.seek(0)
        kept = lines.read().splitlines()[-(_KEPT - 1) :]
        kept.append(json.dumps(asdict(run), sort_keys=True))
        lines.seek(0)
        lines.truncate()
        lines.write("\n".join(kept) + "\n")


def finished_runs(paths: StatePaths) -> list[Finished]:
    """The runs remembered, oldest first; lines of another version are passed over."""
    try:
        lines = runs_file(paths).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    names = {field.name for field in fields(Finished)}
    found = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and values.keys() == names:
            found.append(Finished(**values))
    return found


def memory_correction(runs: Sequence[Finished], like: Finished) -> tuple[float, int]:
    """``(factor, runs)``: the median of measured over estimated peaks of comparable runs.

    Comparable are runs of the same method, base, device and precision, and of those the ones
    nearest in tokens a batch. Without any, the factor is 1.
    """
    same = [run for run in runs if _comparable(run, like) and run.estimated > 0 and run.peak > 0]
    near = sorted(same, key=lambda run: abs(run.tokens - like.tokens))[:_LOOKED_AT]
    near = [run for run in near if like.tokens / 4 <= run.tokens <= like.tokens * 4]
    if not near:
        return 1.0, 0
    factor = statistics.median(run.peak / run.estimated for run in near)
    return min(max(factor, _LEAST), _MOST), len(near)


def past_speed(runs: Sequence[Finished], like: Finished) -> float | None:
    """Median tokens per second of the last comparable runs with as many threads; None: no run."""
    same = [
        run.tokens_per_s
        for run in runs
        if _comparable(run, like) and run.threads == like.threads and run.tokens_per_s > 0
    ]
    return statistics.median(same[-_LOOKED_AT:]) if same else None


def _comparable(run: Finished, like: Finished) -> bool:
    keys = ("method", "base", "device", "precision", "checkpointing")
    return all(getattr(run, key) == getattr(like, key) for key in keys)


def products_per_s(paths: StatePaths) -> float | None:
    """Floating point operations per second of one core in fp32 matrix products, measured once.

    A tenth of a second of numpy in a process of its own (checking a recipe imports nothing heavy);
    kept in the cache under the CPU's name. None where it could not be measured.
    """
    file = paths.cache / "core-speed.json"
    name = _cpu_name()
    try:
        kept = json.loads(file.read_text())
        if kept.get("cpu") == name and kept.get("flops", 0) > 0:
            return float(kept["flops"])
    except (OSError, ValueError, AttributeError):
        pass  # measured below
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _MEASURE],
            capture_output=True,
            check=True,
            timeout=_MEASURE_SECONDS,
        )
        flops = float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # an estimate without a time is still an estimate
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"cpu": name, "flops": flops}))
    except OSError:
        return flops  # a full or read-only disk: measured again next time
    return flops


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return next((line for line in text.splitlines() if line.startswith("model name")), "unknown")
