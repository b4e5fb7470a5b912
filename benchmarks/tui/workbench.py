"""The budgets of the workbench on a pty, beside a minimal Textual app in the same run.

``python -m benchmarks.tui.workbench``: first frame, idle, watching a run, keys, memory, a
16 MB log, 100,000 jobs. Prints a Markdown table; the status is 1 when a budget is not met.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.tui.measure import first_frame, key_latencies, memory_mb, over, settled
from benchmarks.tui.measure import precise_cpu_seconds as cpu
from tests.screens.seeded import NOW, Seed
from tests.terminal.session import Session

HERE = Path(__file__).parent
NO_ENGINE = "[ui]\nstart_engine = false\n"
_ROWS: list[tuple[str, str, str, bool]] = []


def report(name: str, measured: str, budget: str, met: bool) -> None:
    _ROWS.append((name, measured, budget, met))
    print(f"| {name} | {measured} | {budget} | {'yes' if met else 'NO'} |", flush=True)


def filled(root: Path, count: int) -> Seed:
    """A store with ``count`` ended jobs, as rows of SQL (a real submit takes 10 ms)."""
    seed = Seed(root)
    seed.paths.config.write_text(NO_ENGINE)
    first = seed.job("job-0")
    row = dict(seed.conn.execute("SELECT * FROM jobs WHERE id=?", (first,)).fetchone())
    step = dict(seed.conn.execute("SELECT * FROM steps WHERE job_id=?", (first,)).fetchone())
    seed.conn.execute("BEGIN")
    for number in range(2, count + 1):
        row.update(seq=number, id=f"{number:06d}-seed", name=f"job-{number}", state="succeeded")
        row.update(created=NOW, started=NOW, ended=NOW + 60)
        step.update(job_id=row["id"], state="succeeded")
        for table, values in (("jobs", row), ("steps", step)):
            marks = ",".join("?" * len(values))
            names = ",".join(values)
            seed.conn.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks})", (*values.values(),)
            )
    seed.conn.execute("COMMIT")
    return seed


def workbench(root: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "modelops_tui"], {"MODELOPS_HOME": str(root)}


def first_frames(root: Path) -> None:
    seed = filled(root, 1000)
    argv, env = workbench(root)
    ours = first_frame(argv, env, "job-1000", 7)
    minimal = first_frame([sys.executable, str(HERE / "minimal_app.py"), "20"], {}, "job-1", 7)
    ratio = ours[0] / minimal[0]
    told = f"{ours[0] * 1000:.0f} ms, minimal {minimal[0] * 1000:.0f} ms: {ratio:.2f}x"
    report("first frame, CPU, 1,000 jobs", told, "<= 1.5x", ratio <= 1.5)
    seed.close()


def idle_and_keys(root: Path) -> None:
    argv, env = workbench(root)
    with Session(argv, env, (100, 30)) as session:
        session.wait_for("job-1000")
        settled(session)
        time.sleep(2)
        share, rate = over(session, 20)
        report("idle, CPU", f"{share:.2%}", "<= 0.5 %", share <= 0.005)
        report("idle, bytes/s", f"{rate:.0f}", "<= 100", rate <= 100)
        found = sorted(key_latencies(session, "jjjjkkjjjjkkjjjjjjkkkkjjjjjjjjjjkkkkkkjj"))
        p95 = found[int(len(found) * 0.95) - 1] * 1000
        told = f"p50 {statistics.median(found) * 1000:.0f} ms, p95 {p95:.0f} ms ({len(found)} keys)"
        report("key to first byte", told, "p95 <= 50 ms", p95 <= 50)
        memory = memory_mb(session.process.pid)
        report("memory (PSS)", f"{memory:.0f} MB", "<= 80 MB", memory <= 80)


def watching(root: Path) -> None:
    """A run that reports twice a second, its chart on screen."""
    seed = Seed(root)
    seed.paths.config.write_text(NO_ENGINE)
    job = seed.job("watched")
    seed.run(job)
    over_now = threading.Event()

    def write() -> None:
        from engine.store.schema import open_store

        conn = open_store(seed.paths.jobs_db)
        number = 0
        while not over_now.wait(0.5):
            number += 1
            loss = 3.0 / (1 + number / 20)
            line = {"type": "metrics", "step": "train", "done": number, "total": 400, "loss": loss}
            with open(seed.paths.job_events(job), "a") as file:
                file.write(json.dumps({"t": time.time(), "attempt": 1, **line}) + "\n")
            if number % 2 == 0:
                values = (number, 400, loss, 212.0, 400 - number, job)
                sql = "last_done=?, last_total=?, last_loss=?, last_rate=?, last_eta_s=?"
                conn.execute(f"UPDATE jobs SET {sql} WHERE id=?", values)
        conn.close()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    argv, env = workbench(root)
    with Session(argv, env, (100, 30)) as session:
        session.wait_for("watched")
        session.press("\t")
        time.sleep(6)
        share, rate = over(session, 20)
    over_now.set()
    writer.join()
    report("watching a run, CPU", f"{share:.2%}", "<= 2 %", share <= 0.02)
    report("watching a run, bytes/s", f"{rate:.0f}", "<= 5,000", rate <= 5000)
    seed.close()


def large_log(root: Path) -> None:
    seed = Seed(root)
    seed.paths.config.write_text(NO_ENGINE)
    job = seed.job("loud")
    line = b"step %07d loss 1.2345 lr 0.0002 tokens/s 212 some more words to fill the line up\n"
    seed.log(job, b"".join(line % n for n in range(200_000)))
    argv, env = workbench(root)
    with Session(argv, env, (100, 30)) as session:
        session.wait_for("loud")
        settled(session)
        before = cpu(session.process.pid)
        begin = time.monotonic()
        session.press("\t\t")
        session.wait_for("step 0199999")
        wall, ours = time.monotonic() - begin, cpu(session.process.pid) - before
    size = seed.paths.job_log(job).stat().st_size / 1e6
    path = str(seed.paths.job_log(job))
    with Session([sys.executable, str(HERE / "minimal_log.py"), path], {}, (100, 30)) as session:
        session.wait_for("step 0199999")
        whole = cpu(session.process.pid)
    empty = first_frame([sys.executable, str(HERE / "minimal_app.py"), "1"], {}, "job-0", 3)[0]
    minimal = max(0.001, whole - empty)
    told = f"{ours:.2f} s CPU ({wall:.2f} s wall), stock Log {minimal:.2f} s: {ours / minimal:.2f}x"
    report(f"a log of {size:.0f} MB opens", told, "<= 2x", ours <= 2 * minimal)
    seed.close()


def many_jobs(root: Path) -> None:
    seed = filled(root, 100_000)
    argv, env = workbench(root)
    ours = first_frame(argv, env, "job-100000", 3)
    with Session(argv, env, (100, 30)) as session:
        session.wait_for("job-100000")
        settled(session)
        mark = session.press("/")
        session.press("job-99")
        session.wait_for("job-99999", mark)
        found = sorted(key_latencies(session, "j" * 20)) or [0.0]
        memory = memory_mb(session.process.pid)
    p95 = found[max(0, int(len(found) * 0.95) - 1)] * 1000
    told = f"first frame {ours[0] * 1000:.0f} ms CPU, keys p95 {p95:.0f} ms, {memory:.0f} MB"
    report("100,000 jobs", told, "usable", p95 <= 50 and memory <= 80)
    seed.close()


def main() -> int:
    """Measure everything; 1 when a budget is not met."""
    print("| what | measured | budget | met |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        first_frames(base / "thousand")
        idle_and_keys(base / "thousand")
        watching(base / "watched")
        large_log(base / "loud")
        many_jobs(base / "many")
    return 0 if all(met for *_, met in _ROWS) else 1


if __name__ == "__main__":
    sys.exit(main())
