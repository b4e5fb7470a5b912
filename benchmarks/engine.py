"""The engine's own costs: submit, latency, CPU a job, idle CPU and memory, 100,000 jobs.

    python -m benchmarks.engine [--jobs N] [--idle SECONDS]

Prints Markdown. The probe kind of the tests is the job, so that only the engine is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support" / "plugin"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.harness import Harness  # noqa: E402
from tests.support.plans import Step, plan  # noqa: E402


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(name: str, value: str, bar: str = "") -> None:
    print(f"| {name} | {value} | {bar} |", flush=True)


def submit_rate(harness: Harness, count: int) -> None:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        harness.jobs.submit(plan(Step("probe")))
        times.append(time.perf_counter() - begin)
    row("submits a second, one client, fsynced", f"{count / sum(times):.0f}")
    row(
        "submit p50 / p99",
        f"{quantile(times, 0.5) * 1e3:.1f} / {quantile(times, 0.99) * 1e3:.1f} ms",
    )


def cancel_all(harness: Harness) -> None:
    for view in harness.jobs.list(states=["queued"], limit=1000).jobs:
        harness.jobs.cancel(view.id)


def latency(harness: Harness, count: int) -> None:
    """From the return of ``submit`` to the row being ``running``, polled at 0.2 ms."""
    waits, begun = [], []
    for _ in range(count):
        view = harness.jobs.submit(plan(Step("probe")))
        accepted = time.perf_counter()
        while harness.jobs.get(view.id).state == "queued":
            time.sleep(0.0002)
        waits.append(time.perf_counter() - accepted)
        file = harness.paths.attempt_dir(view.id, 1) / "begun.json"
        while not file.exists():
            time.sleep(0.0005)
        begun.append(time.perf_counter() - accepted)
        harness.accepted = [view.id]
        harness.wait_ended(30, keep_engine=False)
        time.sleep(0.05)
    row(
        "accepted -> running p50 / p99",
        f"{quantile(waits, 0.5) * 1e3:.1f} / {quantile(waits, 0.99) * 1e3:.1f} ms",
        "p50 5 ms",
    )
    row("accepted -> shim's first write p50", f"{quantile(begun, 0.5) * 1e3:.1f} ms")


def status(harness: Harness) -> dict[str, Any]:
    from engine.daemon import client

    answer = client.ask(harness.paths, {"op": "status"})
    assert answer is not None
    return answer


def cpu_per_job(harness: Harness, count: int) -> None:
    """Engine and shim, not the worker: its interpreter is the job's own."""
    before = status(harness)["cpu_seconds"]
    harness.accepted = [harness.jobs.submit(plan(Step("probe"))).id for _ in range(count)]
    harness.wait_ended(120, keep_engine=False)
    engine = (status(harness)["cpu_seconds"] - before) / count
    worker = []
    for job in harness.accepted:
        ended = harness.jobs.attempts(job)[0].exit
        if ended is not None:
            worker.append(ended["cpu_s"])
    row("engine CPU a job", f"{engine * 1e3:.1f} ms", "100 ms with the shim")
    row("shim CPU a job", f"{shim_cpu(harness) * 1e3:.1f} ms")
    row(
        "worker CPU before a step's first line (imports of the probe)",
        f"{statistics.median(worker) * 1e3:.0f} ms",
    )


def shim_cpu(harness: Harness) -> float:
    """One shim around ``/bin/true``, its own CPU by ``getrusage``."""
    import json
    import resource
    import subprocess

    from engine.daemon.attempts import SHIM

    folder = harness.root / "shim"
    folder.mkdir(exist_ok=True)
    spec = {
        "argv": ["/bin/true"],
        "work_dir": str(folder),
        "log": str(folder / "log"),
        "ballast": "",
        "grace_s": 1,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(10):
        subprocess.run(
            [sys.executable, "-I", "-S", str(SHIM), str(folder)], check=True, start_new_session=True
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 10


def idle(harness: Harness, seconds: float) -> None:
    before = status(harness)["cpu_seconds"]
    time.sleep(seconds)
    after = status(harness)
    share = (after["cpu_seconds"] - before) / seconds
    row(f"idle CPU over {seconds:.0f} s", f"{share:.3%}", "0.1 %")
    row("memory of the engine", f"{after['memory_bytes'] / 2**20:.0f} MiB", "45 MB")


def start_time(harness: Harness) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        harness.start_engine()
        times.append(time.perf_counter() - begin)
        harness.stop_engine()
    return statistics.median(times)


def measure_store(harness: Harness) -> dict[str, float]:
    found: dict[str, float] = {}
    found["engine start"] = start_time(harness)
    times: dict[str, list[float]] = {"list of 100": [], "list of active": [], "submit": []}
    for _ in range(30):
        begin = time.perf_counter()
        harness.jobs.list(limit=100)
        times["list of 100"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        harness.jobs.list(states=["queued", "running", "stopping", "paused"], limit=100)
        times["list of active"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        view = harness.jobs.submit(plan(Step("probe")))
        times["submit"].append(time.perf_counter() - begin)
        harness.jobs.cancel(view.id)
    return found | {name: statistics.median(values) for name, values in times.items()}


def fill(harness: Harness, count: int) -> None:
    """Finished jobs by the hundred thousand: rows alone, as deletes of old folders leave them."""
    conn = harness.jobs._conn()
    conn.execute("BEGIN IMMEDIATE")
    conn.executemany(
        "INSERT INTO jobs (id, name, kind, state, created, started, ended, lane, step, steps_total,"
        " steps_done, recipe_sha256) VALUES (?, 'old', 'probe', 'succeeded', 0, 0, 0, 'cpu',"
        " 'probe', 1, 1, '')",
        ((f"{n:06d}-old0",) for n in range(500_000, 500_000 + count)),
    )
    conn.executemany(
        "INSERT INTO steps (job_id, name, ord, kind, state, lane, needs, require, params)"
        " VALUES (?, 'probe', 0, 'probe', 'succeeded', 'cpu', '[]', '{}', '{}')",
        ((f"{n:06d}-old0",) for n in range(500_000, 500_000 + count)),
    )
    conn.execute("COMMIT")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--finished", type=int, default=100_000)
    options = parser.parse_args()
    print("| engine | measured | bar |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
        os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support' / 'plugin'}"
        harness = Harness(Path(folder))
        try:
            submit_rate(harness, 200)
            cancel_all(harness)
            harness.start_engine()
            latency(harness, options.jobs)
            cpu_per_job(harness, options.jobs)
            idle(harness, options.idle)
            harness.stop_engine()
            few = measure_store(harness)
            fill(harness, options.finished)
            many = measure_store(harness)
            for name, value in many.items():
                row(
                    f"{name}: with {options.finished:,} finished jobs / without",
                    f"{value * 1e3:.1f} / {few[name] * 1e3:.1f} ms = {value / few[name]:.2f}x",
                    "1.5x",
                )
        finally:
            harness.close()


if __name__ == "__main__":
    main()
