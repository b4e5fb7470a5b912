"""What must hold after any attack: nothing lost, doubled, overlapping, left behind or redone."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter, defaultdict
from typing import Any

from engine.daemon.lock import is_locked
from engine.types.jobs import JobState
from tests.faults.harness import PATIENCE, Harness


def violations(
    harness: Harness,
    *,
    checkpoint_every: int = 0,
    expected: frozenset[JobState] = frozenset({JobState.SUCCEEDED}),
) -> list[str]:
    """Every broken promise, in words; an empty list is a pass. Call after all jobs have ended."""
    lines = harness.ledger_lines()
    return [
        *_lost(harness, expected),
        *_doubled(harness),
        *_overlaps(lines),
        *_strays(harness),
        *_redone(lines, checkpoint_every),
        *_wrong_results(harness),
    ]


def _lost(harness: Harness, expected: frozenset[JobState]) -> list[str]:
    found = []
    for job_id in harness.accepted:
        view = harness.jobs.get(job_id)
        if view.state not in expected:
            found.append(f"lost: {job_id} is {view.state} ({view.reason})")
    doubles = [job_id for job_id, n in Counter(harness.accepted).items() if n > 1]
    return [*found, *(f"one id for two jobs: {job_id}" for job_id in doubles)]


def _doubled(harness: Harness) -> list[str]:
    """A step commits once: one attempt of it succeeded, and one ``result.json`` says so."""
    found = []
    for job_id in harness.accepted:
        succeeded = Counter(a.step for a in harness.jobs.attempts(job_id) if a.state == "succeeded")
        found += [f"doubled: {job_id}/{step} {n} times" for step, n in succeeded.items() if n > 1]
        results: Counter[str] = Counter()
        for file in harness.paths.run_dir(job_id).glob("attempts/*/result.json"):
            if json.loads(file.read_bytes())["state"] == "succeeded":
                spec = json.loads((file.parent / "spec.json").read_bytes())
                results[spec["step"]] += 1
        found += [f"two results: {job_id}/{step}" for step, n in results.items() if n > 1]
    return found


def _overlaps(lines: list[dict[str, Any]]) -> list[str]:
    """Workers of one lane never live at the same time, by their own lock and by their clocks."""
    found = [f"overlap: {line}" for line in lines if line["what"] == "overlap"]
    spans: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for line in lines:
        spans[(line["lane"], line["job"], line["attempt"])].append(line["t"])
    ordered = sorted((key[0], min(times), max(times), key) for key, times in spans.items())
    for (lane, _, end, before), (other, begin, _, after) in itertools.pairwise(ordered):
        if lane == other and begin < end:
            found.append(f"overlap in time: {before} and {after}")
    return found


def _strays(harness: Harness) -> list[str]:
    """No process of any attempt is left, and no lock is held."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [pid for pids in harness.marked().values() for pid in pids]
        if not left:
            break
        time.sleep(0.05)
    else:
        return [f"strays: {harness.marked()}"]
    held = [str(p) for p in harness.paths.locks.glob("lane-*") if is_locked(p)]
    return [f"lock still held: {path}" for path in held]


def _redone(lines: list[dict[str, Any]], checkpoint_every: int) -> list[str]:
    """A new attempt begins at most one checkpoint interval behind the last one's progress."""
    if not checkpoint_every:
        return []
    reached: dict[tuple[str, str], int] = defaultdict(int)
    found = []
    for line in lines:
        key = (line["job"], line["step"])
        if line["what"] == "begin":
            behind = reached[key] - line["done"]
            # the step that reaches a multiple is in the ledger before its checkpoint is complete
            if behind > checkpoint_every:
                found.append(f"redone: {key} {behind} steps at attempt {line['attempt']}")
        elif "done" in line:
            reached[key] = max(reached[key], line["done"])
    return found


def _wrong_results(harness: Harness) -> list[str]:
    """The total a resumed run reports is the total of an uninterrupted one."""
    found = []
    for job_id in harness.accepted:
        for step in harness.jobs.steps(job_id):
            steps = step.params.get("steps", 1)
            total = step.outputs.get("total")
            if step.state is JobState.SUCCEEDED and total != sum(range(steps)):
                found.append(f"wrong result: {job_id}/{step.name} {total}")
    return found
