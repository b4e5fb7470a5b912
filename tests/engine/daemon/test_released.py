"""An upgrade: the state directory each released version left behind, taken over by this engine."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

from engine.paths import StatePaths
from engine.types.jobs import JobState, JobView
from tests.faults.harness import ROOT, Harness

RELEASED = ROOT / "tests" / "engine" / "store" / "released"
VERSIONS = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)

#: Names of jobs in every fixture -> how each must end here.
ENDS = {
    "finished": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
    "paused": JobState.SUCCEEDED,
    "running": JobState.SUCCEEDED,
    "queued first": JobState.SUCCEEDED,
    "queued urgent": JobState.SUCCEEDED,
}


def unpack(version: str, paths: StatePaths) -> None:
    """The files and the job store as that version left them."""
    kept = json.loads((RELEASED / f"{version}.json").read_text())
    for name, text in kept["files"].items():
        file = paths.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    conn = sqlite3.connect(paths.jobs_db)
    conn.executescript("\n".join(kept["sql"]))
    conn.execute(f"PRAGMA user_version={kept['user_version']}")
    conn.commit()
    conn.close()


def test_every_released_version_has_left_its_state_here() -> None:
    assert VERSIONS
    assert {path.stem for path in RELEASED.glob("*.json")} == set(VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_released_version_accepted_is_run_by_this_one(
    harness: Harness, version: str
) -> None:
    """Jobs of every state; one ran when engine and worker were killed, with a checkpoint."""
    unpack(version, harness.paths)
    harness.start_engine()
    jobs = {view.name: view for view in harness.jobs.list().jobs}
    assert set(jobs) == set(ENDS)
    before = harness.jobs.steps(jobs["finished"].id)[1].outputs
    assert before["tag"] == "from 6.0"
    assert jobs["paused"].state is JobState.PAUSED
    harness.jobs.resume(jobs["paused"].id)
    harness.accepted = [view.id for view in jobs.values()]
    ended = {view.name: view for view in harness.wait_ended()}
    assert {name: view.state for name, view in ended.items()} == ENDS
    # from the checkpoints of the other version
    for name in ("paused", "running"):
        outputs = harness.jobs.steps(jobs[name].id)[0].outputs
        assert (outputs["total"], outputs["resumed_from"] > 0) == (66.0, True), name
    begun = sorted((view for view in ended.values() if "queued" in view.name), key=_started)
    assert [view.name for view in begun] == ["queued urgent", "queued first"]
    assert harness.jobs.steps(jobs["queued urgent"].id)[1].outputs["tag"] == "from 10.0"
    harness.stop_engine()


def _started(view: JobView) -> float:
    assert view.started is not None
    return view.started
