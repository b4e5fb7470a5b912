"""Real training under kill -9: the final weights are those of an uninterrupted run, bit by bit."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from engine.recipe import prepare
from engine.types.jobs import ENDED_STATES, JobState
from tests.faults.harness import Harness
from tests.faults.oracle import violations
from tests.support.tiny_model import build_tiny_model, chat_rows, write_jsonl

RECIPE = """
recipe = 1
name = "killed"
kind = "finetune"
base = {base!r}
data = {{ train = {train!r}, max_length = 192 }}
[train]
method = "lora"
lr = 1e-3
rank = 4
batch = 2
dropout = 0.1
max_steps = {steps}
save_every = {every}
samples = 0
[resources]
threads = 1
device = "cpu"
"""


def weights(harness: Harness, job: str) -> dict[str, str]:
    """The hash of every weight file of the job's model, by name."""
    from engine.registry import Registry

    manifest = harness.jobs.steps(job)[0].outputs["model"]
    folder = Registry.open(harness.paths).materialize(manifest)
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(folder).rglob("*.safetensors"))
    }
    assert found, f"no weights in {folder}"
    return found


def steps_done(harness: Harness, job: str) -> int:
    done = [
        int(event["done"])
        for event in harness.jobs.events(job).events
        if event["type"] in ("metrics", "progress") and event.get("done") is not None
    ]
    return max(done, default=0)


def kill_on_the_way(harness: Harness, job: str, steps: int, kills: int) -> None:
    """Kill worker, shim or engine each time the training has come a random way further."""
    for number in range(kills):
        goal = harness.random.randrange(1, steps) * (number + 1) // kills
        while steps_done(harness, job) <= goal:
            if harness.jobs.get(job).state in ENDED_STATES:
                return
            harness.keep_engine()
            time.sleep(0.02)
        role = ("worker", "shim", "engine")[number % 3]
        if role == "engine":
            harness.kill_engine()
            continue
        # between two attempts there is nothing to kill for a moment
        while not harness.kill_random(role):
            if harness.jobs.get(job).state in ENDED_STATES:
                return
            harness.keep_engine()
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("base", "steps", "every", "kills"),
    [
        pytest.param("tiny", 24, 4, 3, id="tiny"),
        pytest.param("smollm2-135m-instruct", 8, 2, 3, id="135m", marks=pytest.mark.nightly),
    ],
)
def test_final_weights_are_bit_identical(
    harness: Harness, tmp_path: Path, base: str, steps: int, every: int, kills: int
) -> None:
    folder = base if base != "tiny" else str(build_tiny_model(tmp_path / "tiny"))
    train = write_jsonl(tmp_path / "train.jsonl", chat_rows(40))
    text = RECIPE.format(base=folder, train=str(train), steps=steps, every=every)
    plan = prepare(text, paths=harness.paths)
    harness.start_engine()
    whole = harness.jobs.submit(plan).id
    harness.accepted.append(whole)
    harness.wait_ended(900)
    assert harness.jobs.get(whole).state is JobState.SUCCEEDED, harness.jobs.get(whole).error
    killed = harness.jobs.submit(plan).id
    harness.accepted.append(killed)
    kill_on_the_way(harness, killed, steps, kills)
    harness.wait_ended(900)
    # a slow look may miss the last moments of a run, but not its first third
    assert harness.kills["worker"] >= 1
    attempts = harness.jobs.attempts(killed)
    assert [a.state for a in attempts].count("interrupted") >= 1
    assert weights(harness, killed) == weights(harness, whole)
    harness.stop_engine()
    assert not [v for v in violations(harness) if not v.startswith("wrong result")]
