"""``run`` and ``jobs``: real processes, a real engine, the probe kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE
from tests.modelops_tui.front_door import FrontDoor

SWEEP = """\
kind = "pipeline"
pick = "max train.total"
[matrix]
"train.steps" = [1, 3]
[steps.train]
uses = "probe"
[steps.after]
uses = "probe"
tag = "got ${train.total}"
require = { "train.total" = ">= 2" }
"""


GATE = """\
kind = "pipeline"
[steps.train]
uses = "probe"
steps = 3
[steps.after]
uses = "probe"
require = { "train.total" = ">= 100" }
"""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[FrontDoor]:
    door = FrontDoor(tmp_path)
    yield door
    for line in door("jobs", "list", "--active", "--jsonl").stdout.splitlines():
        door("jobs", "cancel", json.loads(line)["id"], "--now")
    door("engine", "stop")


def test_a_run_from_submit_to_tables(door: FrontDoor) -> None:
    (door.folder / "sweep.toml").write_text(SWEEP)
    result = door("run", "sweep.toml")
    assert result.returncode == 0, result.stderr
    first, *rest = result.stderr.splitlines()
    assert first.startswith("submitted 000001-")
    job = first.split()[1]
    assert rest[-1].startswith(f"job {job} succeeded in ")
    assert "step train@2 succeeded" in rest
    lines = result.stdout.splitlines()
    assert lines[0] == "matrix"
    assert "  picked: point 2, by max train.total" in lines
    shown = door.job(job)
    after = shown["steps"][-1]
    assert after["name"] == "after"
    picked = next(s for s in shown["steps"] if s["name"] == "train@2")
    plan = json.loads(door("jobs", "recipe", job, "--resolved").stdout)
    assert plan["steps"][-1]["params"]["tag"] == "got ${pick.train.total}"
    assert after["outputs"]["tag"] == f"got {picked['outputs']['total']}"
    again = door("run", "sweep.toml")
    assert "nothing changed" in again.stderr, "a pipeline's steps are remembered"


def test_jsonl_is_lines_of_json_only(door: FrontDoor) -> None:
    result = door("run", door.recipe(steps=2), "--jsonl")
    assert result.returncode == 0
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[0]["type"] == "begun"
    assert events[-1]["type"] == "job"
    assert events[-1]["state"] == "succeeded"
    one = json.loads(door("run", "r.toml", "--json").stdout)
    assert one["state"] == "succeeded"


def test_a_failed_job_has_its_own_exit_status_and_reason(door: FrontDoor) -> None:
    result = door("run", door.recipe(steps=3, fail_at=1))
    assert result.returncode == 10
    assert "error: " in result.stderr
    assert "hint: `modelops-tui jobs retry" in result.stderr


def test_an_unmet_gate_does_not_advise_a_retry(door: FrontDoor) -> None:
    """The same numbers would meet the same gate."""
    (door.folder / "gate.toml").write_text(GATE)
    result = door("run", "gate.toml")
    assert result.returncode == 10
    assert "the gate before step 'after' is not met" in result.stderr
    assert "hint: change the recipe's `require`" in result.stderr
    assert "jobs retry" not in result.stderr


def test_nothing_is_submitted_by_a_dry_run_or_a_bad_recipe(door: FrontDoor) -> None:
    dry = door("run", door.recipe(steps=2), "--dry-run", "--set", "tag=x")
    assert dry.returncode == 0
    assert 'tag = "x"' in dry.stdout
    assert "nothing was submitted" in dry.stderr
    plan = json.loads(door("run", "r.toml", "--dry-run", "--json").stdout)
    assert plan["plan"]["steps"][0]["params"]["steps"] == 2
    assert door("run", door.recipe("bad.toml", stepz=2)).returncode == 2
    assert door("run", "nowhere").returncode == 3
    assert door("jobs", "list", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("point", "accepted"), [("submit.inserted", False), ("submit.committed", True)]
)
def test_submitted_is_said_only_when_it_is_durable(
    door: FrontDoor, point: str, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELOPS_CRASH", point)
    result = door("run", door.recipe(), "--detach")
    assert result.returncode == -signal.SIGKILL
    assert "submitted" not in result.stderr
    monkeypatch.delenv("MODELOPS_CRASH")
    assert len(json.loads(door("jobs", "list", "--json").stdout)) == int(accepted)


def test_ctrl_c_detaches_and_the_job_goes_on(door: FrontDoor) -> None:
    process = door.begin("run", door.recipe(steps=100_000, step_s=0.1))
    assert process.stderr is not None
    job = process.stderr.readline().split()[1]
    door.wait_for(job, "running")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    assert f"`modelops-tui jobs follow {job}`" in told
    assert door.job(job)["state"] == "running"
    follower = door.begin("jobs", "follow", job)
    assert door("jobs", "cancel", job).returncode == 0
    _, told = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 12, told
    assert door.job(job)["state"] == "cancelled"


def test_ctrl_c_while_an_engine_starts_says_that_the_job_is_kept(door: FrontDoor) -> None:
    gate = door.hold()
    # it can't be over before we look, however busy the machine is
    process = door.begin("run", door.recipe(steps=2, hold=str(gate)))
    assert process.stderr is not None
    job = process.stderr.readline().split()[1]
    # at once: the engine is being started, and nothing is followed yet
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told
    assert f"`modelops-tui jobs follow {job}`" in told
    gate.unlink()
    assert door("jobs", "follow", job).returncode == 0, "nothing was lost"


def test_a_follower_replaces_an_engine_that_died(door: FrontDoor) -> None:
    gate = door.hold()
    process = door.begin("run", door.recipe(steps=2, hold=str(gate)))
    assert process.stderr is not None
    job = process.stderr.readline().split()[1]
    door.wait_for(job, "running")
    engine = json.loads(door("engine", "status", "--json").stdout)["pid"]
    os.kill(engine, signal.SIGKILL)
    gate.unlink()
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert "another one has taken over" in told


def test_pause_resume_and_the_rest_of_jobs(door: FrontDoor) -> None:
    gate = door.hold()
    recipe = door.recipe(steps=3, checkpoint_every=1, hold=str(gate))
    job = door("run", recipe, "--detach").stdout.strip()
    door.wait_for(job, "running")
    deadline = time.monotonic() + PATIENCE
    while not door("jobs", "events", job, "--type", "progress").stdout:
        assert time.monotonic() < deadline
    frozen = json.loads(door("jobs", "freeze", job, "--json").stdout)
    assert (frozen["id"], frozen["frozen"]) == (job, True)
    assert json.loads(door("jobs", "thaw", job, "--json").stdout)["frozen"] is False
    assert door("jobs", "pause", job).returncode == 0
    door.wait_for(job, "paused")
    assert door("jobs", "follow", job).returncode == 13
    assert door("jobs", "rm", job, "--yes").returncode == 4, "it has not ended"
    gate.unlink()
    assert door("jobs", "resume", job[:6]).returncode == 0, "a beginning of the id is enough"
    assert door("jobs", "follow", job).returncode == 0
    shown = door.job(job)
    assert shown["steps"][0]["outputs"]["resumed_from"] > 0
    assert len(shown["attempts"]) == 2
    listed = door("jobs", "list").stdout.splitlines()
    assert listed[0].split()[:3] == ["id", "name", "state"]
    assert listed[1].split()[:3] == [job, "r", "succeeded"]
    assert door("jobs", "list", "--state", "failed", "--csv").stdout.count("\n") == 1
    wrong = door("jobs", "list", "--state", "runing")
    assert (wrong.returncode, "did you mean `running`?" in wrong.stderr) == (2, True)
    events = door("jobs", "events", job, "--type", "begun").stdout.splitlines()
    assert [json.loads(e)["attempt"] for e in events] == [1, 2]
    wrong = door("jobs", "events", job, "--type", "begin")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "there is no event type 'begin'" in wrong.stderr
    assert "did you mean `begun`?" in wrong.stderr
    assert door("jobs", "events", job, "--type", "sample").returncode == 0, "known, but none here"
    assert door("jobs", "log", job).returncode == 0
    assert door("jobs", "recipe", job).stdout == (door.folder / recipe).read_text()
    assert door("jobs", "retry", job).returncode == 4, "it succeeded"
    assert door("jobs", "rm", job).returncode == 4, "nobody can be asked"
    removed = door("jobs", "rm", job, "--yes", "--json")
    assert json.loads(removed.stdout) == {"removed": [job]}
    assert door("jobs", "show", job).returncode == 3


def test_the_end_of_a_log(door: FrontDoor) -> None:
    job = door("run", door.recipe(loud_kib=300), "--detach").stdout.strip()
    assert door("jobs", "follow", job).returncode == 0
    whole = door("jobs", "log", job).stdout.splitlines()
    assert len(whole) > 10
    for count in (0, 1, 7, len(whole) + 5):
        wanted = whole[len(whole) - min(count, len(whole)) :]
        assert door("jobs", "log", job, "-n", str(count)).stdout.splitlines() == wanted


def test_a_pipe_whose_reader_leaves_is_no_error(door: FrontDoor) -> None:
    command = "for i in 1 2 3; do python -m modelops_tui recipe new pipeline; done | head -1"
    result = subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable)],
        capture_output=True,
        text=True,
        env=door.env,
        cwd=door.folder,
    )
    assert result.stderr == ""
