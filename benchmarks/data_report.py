"""The data report on a large file whose every count is known: right, how fast, how much memory.

``BENCH_ROWS`` (100,000) conversations of some 115 tokens are written with so many faults of each
kind, and ``modelops-tui data check`` is run on them as a person would, the start of its process and
the loading of the tokenizer included. A count that is wrong fails the benchmark.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = int(os.environ.get("BENCH_ROWS", "100000"))
LENGTH = 512
_SET_CHILD_SUBREAPER = 36
BAR_SECONDS, BAR_MIB = 60, 1024
#: Faults in a file of 100,000 rows, by the report's own names.
PLANTED = {
    "exact_duplicates": 400,
    "near_duplicates": 300,
    "placeholders": 250,
    "empty": 150,
    "absurd": 120,
    "too_long": 280,
    "lost_end": 280,
    "nothing_to_learn": 180,
    "overlap": 130,
}
_CUT_IN_PROMPT, _HELD_OUT = 80, 500


def vocabulary() -> list[str]:
    """The words of the bundled documents and conversations."""
    folder = Path(__file__).parents[1] / "assets" / "data"
    text = " ".join(f.read_text() for f in sorted(folder.rglob("*")) if f.is_file())
    return sorted(set(re.findall(r"[A-Za-z]{2,12}", text)))


def chat(question: str, answer: str | None) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return {"messages": turns}


def faulty(rng: random.Random, said: Any, earlier: list[dict[str, Any]]) -> Iterator[Any]:
    """The planted rows, those of which ``earlier`` holds a first copy included."""
    count = dict(PLANTED)
    for row in earlier[: count["exact_duplicates"]]:
        question, answer = (turn["content"] for turn in row["messages"])
        # equal but for white space
        yield chat(question.replace(" ", "  ", 1), answer)
    for row in earlier[-count["near_duplicates"] :]:
        question, answer = (turn["content"] for turn in row["messages"])
        yield chat(question, f"{answer} {rng.randrange(10**9)}")
    for _ in range(count["placeholders"]):
        yield chat(f"Dear {{{{name}}}}, {said(20)}", said(30))
    for _ in range(count["empty"]):
        yield chat(said(25), "")
    for _ in range(count["absurd"]):
        yield chat(said(25), f"{said(10)} \x07 {said(10)}")
    for number in range(count["too_long"]):
        if number < _CUT_IN_PROMPT:
            yield chat(said(LENGTH), said(30))
        else:
            yield chat(said(20), said(LENGTH))
    for _ in range(count["nothing_to_learn"] - _CUT_IN_PROMPT):
        yield chat(said(40), None)


def write_files(folder: Path) -> tuple[Path, Path, dict[str, int]]:
    """``(rows, held-out rows, counts expected)``."""
    rng, words = random.Random(7), vocabulary()

    def said(count: int) -> str:
        return " ".join(rng.choice(words) for _ in range(count))

    planted = sum(v for k, v in PLANTED.items() if k not in ("lost_end", "overlap"))
    planted -= _CUT_IN_PROMPT
    plain = [
        chat(said(rng.randint(10, 30)), said(rng.randint(25, 90))) for _ in range(ROWS - planted)
    ]
    rows = plain + list(faulty(rng, said, plain[:2000]))
    # repeats stay behind what they repeat
    head, tail = rows[:2000], rows[2000:]
    rng.shuffle(tail)
    train, held = folder / "rows.jsonl", folder / "held.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in head + tail))
    repeated = rng.sample(plain, PLANTED["overlap"])
    fresh = [chat(said(15), said(40)) for _ in range(_HELD_OUT - len(repeated))]
    held.write_text("".join(json.dumps(row) + "\n" for row in repeated + fresh))
    return train, held, {"rows": len(rows), **PLANTED}


def measure(command: list[str], output: Path) -> tuple[float, float, float]:
    """``(wall seconds, CPU seconds, peak MiB)`` of a command with all its processes.

    Processes that outlive their parent are taken over and waited for, too; the peak is that of the
    largest one.
    """
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.monotonic()
    with open(output, "w") as out:
        process = subprocess.Popen(command, stdout=out)
        if process.wait() not in (0, 1):
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    wall = time.monotonic() - began
    try:
        while True:
            os.wait()
    except ChildProcessError:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, held, expected = write_files(folder)
        command = [sys.executable, "-m", "modelops_tui", "data", "check", str(train), "--json"]
        command += ["--length", str(LENGTH), "--eval", str(held)]
        wall, cpu, peak = measure(command, folder / "report.json")
        size = train.stat().st_size / 2**20
        report = json.loads((folder / "report.json").read_text())["report"]
    found = {k: v["count"] if isinstance(v, dict) else v for k, v in report.items()}
    print(f"{ROWS:,} rows, {size:.0f} MiB of JSONL, {found['tokens']:,} tokens used; ", end="")
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| count | planted | found |\n|---|---|---|")
    wrong = 0
    for key, count in expected.items():
        wrong += found[key] != count
        print(f"| {key.replace('_', ' ')} | {count:,} | {found[key]:,} |")
    print("\n| what | measured | bar |\n|---|---|---|")
    print(f"| wall | {wall:.1f} s | {BAR_SECONDS} s |")
    print(f"| CPU, all processes | {cpu:.1f} s | |")
    print(f"| peak memory of the largest process | {peak:.0f} MiB | {BAR_MIB} MiB |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
