"""A real store with jobs in every state, written by the store's own functions, at a fixed time."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

from engine.api import Workbench
from engine.paths import StatePaths
from engine.recipe.plan import Plan, PlannedStep
from engine.store.run import Expected, Outcome, claim, finish
from engine.store.schema import open_store
from engine.store.submit import add_job

#: 2026-03-14 09:26:53 UTC
NOW = 1773480413.0
RECIPE = """\
# House style on the packaged model
recipe = 1
name = "house-style"
kind = "finetune"
base = "smollm2-135m-instruct"

[train]
method = "lora"
epochs = 2
lr = 2e-4
"""


def make_plan(name: str, steps: list[tuple[str, str]]) -> Plan:
    """A plan as ``prepare`` returns it, of steps that need each other in order."""
    names = [step for step, _ in steps]
    planned = tuple(
        PlannedStep(
            name=step,
            kind=kind,
            params={"train": {"lr": 2e-4}},
            needs=tuple(names[:place][-1:]),
            lane="cpu",
        )
        for place, (step, kind) in enumerate(steps)
    )
    return Plan(
        name=name,
        kind=steps[0][1] if len(steps) == 1 else "pipeline",
        steps=planned,
        pick=None,
        source_text=RECIPE,
        source_path=None,
        sha256="ab" * 32,
        code_versions={},
        data_versions={},
    )


class Seed:
    """Writes jobs into one state directory; ``ids`` maps a job's name to its id."""

    def __init__(self, root: Path) -> None:
        self.paths = StatePaths(root).ensure()
        self.conn: sqlite3.Connection = open_store(self.paths.jobs_db)
        self.ids: dict[str, str] = {}
        self._count = 0

    @property
    def workbench(self) -> Workbench:
        return Workbench(self.paths.root)

    def job(self, name: str, steps: list[tuple[str, str]] | None = None) -> str:
        """Submit; ids are made predictable so that pictures of them are the same every time."""
        made = add_job(self.conn, self.paths, make_plan(name, steps or [("train", "finetune")]))
        self._count += 1
        fixed = f"{self._count:06d}-{'abcdefghjkmnpqrs'[self._count % 16] * 4}"
        self.paths.run_dir(made).rename(self.paths.run_dir(fixed))
        self.conn.execute("PRAGMA foreign_keys=OFF")
        self.conn.execute("UPDATE steps SET job_id=? WHERE job_id=?", (fixed, made))
        self.conn.execute("UPDATE jobs SET id=?, created=? WHERE id=?", (fixed, NOW - 7200, made))
        self.conn.execute("PRAGMA foreign_keys=ON")
        self.ids[name] = fixed
        return fixed

    def many(self, count: int) -> None:
        """``count`` ended jobs, as rows of SQL (a real submit takes 10 ms)."""
        first = self.job("job-0")
        row = dict(self.conn.execute("SELECT * FROM jobs WHERE id=?", (first,)).fetchone())
        step = dict(self.conn.execute("SELECT * FROM steps WHERE job_id=?", (first,)).fetchone())
        self.conn.execute("BEGIN")
        for number in range(2, count + 1):
            row.update(seq=number, id=f"{number:06d}-seed", name=f"job-{number}", state="succeeded")
            row.update(created=NOW, started=NOW, ended=NOW + 60)
            step.update(job_id=row["id"], state="succeeded")
            for table, values in (("jobs", row), ("steps", step)):
                marks = ",".join("?" * len(values))
                names = ",".join(values)
                self.conn.execute(
                    f"INSERT INTO {table} ({names}) VALUES ({marks})", (*values.values(),)
                )
        self.conn.execute("COMMIT")

    def run(self, job_id: str) -> int:
        """Claim its current step, as the engine does."""
        row = self.conn.execute("SELECT attempt, step FROM jobs WHERE id=?", (job_id,)).fetchone()
        attempt = claim(self.conn, Expected(job_id, row["attempt"], row["step"]), "cpu")
        assert attempt is not None
        self.times(job_id)
        return attempt

    def end(self, job_id: str, attempt: int, **outcome: Any) -> None:
        """Finish the attempt."""
        assert finish(self.conn, job_id, attempt, Outcome(**outcome)) is not None
        self.times(job_id)

    def times(self, job_id: str) -> None:
        """Put the moments of a job where the fixed clock expects them."""
        for table, key in (("jobs", "id"), ("steps", "job_id")):
            self.conn.execute(
                f"UPDATE {table} SET started=CASE WHEN started IS NULL THEN NULL ELSE ? END,"
                f" ended=CASE WHEN ended IS NULL THEN NULL ELSE ? END WHERE {key}=?",
                (NOW - 3600, NOW - 1800, job_id),
            )
        self.conn.execute(
            "UPDATE attempts SET began=?, ended=CASE WHEN ended IS NULL THEN NULL ELSE ? END"
            " WHERE job_id=?",
            (NOW - 3600, NOW - 1800, job_id),
        )

    def mirror(self, job_id: str, **values: Any) -> None:
        """The newest progress on the job's row, as the engine mirrors it."""
        sets = ", ".join(f"last_{name}=?" for name in values)
        self.conn.execute(f"UPDATE jobs SET {sets} WHERE id=?", (*values.values(), job_id))

    def reason(self, job_id: str, text: str) -> None:
        self.conn.execute("UPDATE jobs SET reason=? WHERE id=?", (text, job_id))

    def events(self, job_id: str, events: list[dict[str, Any]]) -> None:
        with open(self.paths.job_events(job_id), "a", encoding="utf-8") as file:
            for event in events:
                file.write(json.dumps({"t": NOW - 60, "attempt": 1, **event}) + "\n")

    def log(self, job_id: str, data: bytes) -> None:
        with open(self.paths.job_log(job_id), "ab") as file:
            file.write(data)

    def close(self) -> None:
        self.conn.close()


def curve(points: int, step: str = "train") -> list[dict[str, Any]]:
    """Metrics of a run whose loss falls, with one spike and held-out points."""
    events = []
    for n in range(1, points + 1):
        loss = 0.4 + 2.6 * math.exp(-n / (points / 4)) + 0.08 * math.sin(n * 1.7)
        if n == points // 2:
            loss += 1.2
        event: dict[str, Any] = {
            "type": "metrics",
            "step": step,
            "done": n,
            "total": points * 2,
            "loss": loss,
            "learning_rate": 2e-4,
            "tokens_per_s": 212.0,
        }
        if n % (points // 4) == 0:
            event["eval_loss"] = loss + 0.15
        events.append(event)
    return events


REPORT = {
    "title": "Perplexity",
    "columns": ["text", "base", "tuned"],
    "rows": [["held-out", 18.42, 7.31], ["neutral", 12.05, 12.4]],
    "notes": ["Lower is better."],
}


def seed_all(root: Path) -> Seed:
    """Eight jobs: every state, a failure with its reason, a pipeline with reports."""
    seed = Seed(root)
    done = seed.job("evaluate-base", [("evaluate", "evaluate")])
    seed.end(
        done,
        seed.run(done),
        state="succeeded",
        outputs={"perplexity": 7.31, "report": "sha256:" + "1f" * 32},
        report=[REPORT],
    )
    failed = seed.job("tickets-qlora")
    seed.log(failed, b"loading the model\nTraceback (most recent call last):\n  step 12\n")
    seed.end(
        failed,
        seed.run(failed),
        state="failed",
        reason="the loss became NaN at step 12",
        error={
            "what": "the loss became NaN at step 12",
            "why": "the learning rate 0.9 is far above what LoRA bears",
            "hint": "try --set train.lr=2e-4",
        },
    )
    cancelled = seed.job("old-sweep")
    seed.conn.execute("UPDATE jobs SET want='cancel' WHERE id=?", (cancelled,))
    seed.conn.execute("UPDATE jobs SET want=NULL WHERE id=?", (cancelled,))
    attempt = seed.run(cancelled)
    seed.conn.execute("UPDATE jobs SET want='cancel', state='stopping' WHERE id=?", (cancelled,))
    seed.end(cancelled, attempt, state="stopped")
    paused = seed.job("night-run")
    attempt = seed.run(paused)
    seed.mirror(paused, done=40, total=200, unit="step", loss=1.91)
    seed.conn.execute("UPDATE jobs SET want='pause', state='stopping' WHERE id=?", (paused,))
    seed.end(paused, attempt, state="stopped")
    running = seed.job(
        "house-style",
        [
            ("train", "finetune"),
            ("check", "evaluate"),
            ("shrink", "quantize"),
            ("publish", "register"),
        ],
    )
    seed.run(running)
    seed.mirror(
        running,
        done=120,
        total=240,
        unit="step",
        loss=0.8123,
        rate=212.0,
        eta_s=415.0,
        memory_bytes=1_480_000_000,
        event_at=NOW - 1,
    )
    seed.events(running, curve(120))
    seed.events(
        running,
        [
            {"type": "checkpoint", "step": "train", "done": 100, "path": "checkpoint-100"},
            {
                "type": "sample",
                "step": "train",
                "prompt": "How do I reset my password?",
                "before": "I am a language model.",
                "after": "Open Settings, choose Security, then Reset.",
            },
        ],
    )
    seed.log(running, b"".join(b"step %d loss %.3f\n" % (n, 3 - n / 60) for n in range(1, 121)))
    waiting = seed.job("support-bot")
    seed.reason(waiting, "waits for the CPU: job 000005-hhhh (train) has it")
    seed.job("quantize-ladder", [("quantize", "quantize")])
    return seed
