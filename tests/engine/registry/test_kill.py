"""kill -9 anywhere: what was accepted stays, the registry is sound, nothing pushed is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.api.artifacts import Artifacts
from engine.paths import StatePaths
from tests.engine.registry.conftest import make_folder
from tests.engine.registry.killing import PASSPHRASE

ROOT = Path(__file__).resolve().parents[3]
POINTS = (
    "registry.blob-synced",
    "registry.blob-renamed",
    "registry.blob-taken",
    "registry.manifest-written",
    "registry.before-event",
    "registry.event-written",
    "registry.indexed",
)
PUSH_POINTS = (
    "registry.push-blobs",
    "registry.push-manifests",
    "registry.push-uploaded",
    "registry.push-published",
)

#: A deep fsck reads the whole growing registry. What a kill breaks stays broken, so that one check
#: after some rounds finds it, too, and a thousand kills stay linear.
CHECK_EVERY = 20


def start(what: str, state: Path, sources: Path, point: str | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("MODELOPS_CRASH", None)
    if point:
        env["MODELOPS_CRASH"] = point
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.registry.killing", what, str(state), str(sources)],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
    )


def killed(process: subprocess.Popen[str], delay: float | None = None) -> list[str]:
    """What it said before it died."""
    assert process.stdout is not None
    with process.stdout as told:
        first = ""
        if delay is not None:
            first = told.readline()  # it is at work, not still starting
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        # from the same reader: what it has read ahead may end in the middle of a line
        said = (first + told.read()).split("\n")
    process.wait(200)
    assert process.returncode == -signal.SIGKILL
    return [line for line in said if line]


def sound(state: Path, accepted: list[str]) -> None:
    artifacts = Artifacts(StatePaths(state))
    report = artifacts.fsck(deep=True)
    assert report.ok, report.faults
    known = {view.id for view in artifacts.list(include_runs=True)}
    assert set(accepted) <= known
    artifacts.registry.close()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point(tmp_path: Path, point: str) -> None:
    state = tmp_path / "state"
    Artifacts(StatePaths(state)).add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    process = start("publish", state, tmp_path / "sources", f"{point}:3")
    sound(state, killed(process))
    Artifacts(StatePaths(state)).add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    sound(state, [])


@pytest.mark.parametrize("point", PUSH_POINTS)
def test_a_push_that_dies_is_taken_up(tmp_path: Path, point: str) -> None:
    state, remote = tmp_path / "state", tmp_path / "remote"
    artifacts = Artifacts(StatePaths(state))
    artifacts.add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    artifacts.remote_add("origin", str(remote))
    artifacts.push()
    said = killed(start("push", state, tmp_path / "sources", f"{point}:2"))
    accepted = [line for line in said if not line.startswith("pushed")]
    sound(state, accepted)
    clone_has(tmp_path / "before", remote, [x.split()[1] for x in said if x.startswith("pushed")])
    Artifacts(StatePaths(state)).push()
    clone_has(tmp_path / "after", remote, accepted)


@pytest.mark.parametrize(
    ("point", "rotated"),
    [
        ("registry.rotate-made", False),
        ("registry.rotate-rooted", True),
        ("registry.rotate-swapped", True),
        ("registry.before-event", True),
        ("registry.event-written", True),
        ("registry.rotate-recorded", True),
    ],
)
@pytest.mark.parametrize("who", ["opened again", pytest.param("was open", marks=pytest.mark.slow)])
def test_a_rotation_that_dies_is_finished_or_never_was(
    tmp_path: Path, point: str, rotated: bool, who: str
) -> None:
    paths = StatePaths(tmp_path / "state")
    artifacts = Artifacts(paths)
    artifacts.add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    old = artifacts.registry.device.id
    killed(start("rotate", paths.root, tmp_path / "sources", point))
    if who == "opened again":
        artifacts = Artifacts(paths)
    artifacts.add(make_folder(tmp_path / "t", "b"), name="b", artifact_type="model")
    keys = {key.key: key for key in artifacts.keys() if "device" in key.roles}  # noqa: SIM118
    new = artifacts.registry.device.id
    assert (new != old) == rotated == bool(keys[old].revoked)
    assert keys[new].here
    assert not keys[new].revoked
    folder = paths.registry.parent / "keys"
    assert not (folder / "device-next.json").exists()
    assert len(list(folder.glob("device-*.retired.json"))) == rotated
    assert len(artifacts.audit(event_type="keys")) == rotated
    sound(paths.root, [view.id for view in artifacts.list()])
    assert artifacts.rotate_device_key().key not in (old, new)
    artifacts.remote_add("origin", str(tmp_path / "remote"))
    artifacts.push()
    clone_has(tmp_path / "clone", tmp_path / "remote", [view.id for view in artifacts.list()])


@pytest.mark.parametrize("point", ["registry.release-made", "registry.rooted"])
def test_a_release_key_that_dies_is_made_again_or_is_there(tmp_path: Path, point: str) -> None:
    paths = StatePaths(tmp_path / "state")
    Artifacts(paths).add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    killed(start("release", paths.root, tmp_path / "sources", point))
    artifacts = Artifacts(paths)
    if point == "registry.release-made":
        artifacts.create_release_key("anna", PASSPHRASE)
    artifacts.promote("a", "prod", passphrase=PASSPHRASE)
    assert artifacts.resolve("a@prod").version == "1"
    sound(paths.root, [])


def clone_has(state: Path, remote: Path, ids: list[str]) -> None:
    clone = Artifacts(StatePaths(state))
    clone.clone(str(remote))
    assert set(ids) <= {view.id for view in clone.list(include_runs=True)}
    assert clone.fsck(deep=True).ok


def rounds_of_two_publishers(tmp_path: Path, rounds: int) -> None:
    random.seed(3)
    state = tmp_path / "state"
    accepted: list[str] = []
    for n in range(rounds):
        pair = [start("publish", state, tmp_path / f"sources{n % 3}-{i}") for i in range(2)]
        for process in pair:
            accepted += killed(process, random.uniform(0, 0.3))
        if n % CHECK_EVERY == CHECK_EVERY - 1 or n + 1 == rounds:
            sound(state, accepted)
    assert accepted


def rounds_of_two_pushers(tmp_path: Path, rounds: int) -> None:
    random.seed(5)
    remote = tmp_path / "remote"
    first, second = (Artifacts(StatePaths(tmp_path / name)) for name in ("one", "two"))
    first.add(make_folder(tmp_path / "s"), name="a", artifact_type="model")
    first.remote_add("origin", str(remote))
    first.push()
    second.clone(str(remote))
    first.add_key(second.device()["public"], "device", "two")
    first.push()
    second.pull()
    accepted: dict[str, list[str]] = {"one": [], "two": []}
    pushed: list[str] = []
    for n in range(rounds):
        pair = [start("push", tmp_path / name, tmp_path / f"s-{name}") for name in accepted]
        for name, process in zip(accepted, pair, strict=True):
            said = killed(process, random.uniform(0, 0.3))
            accepted[name] += [line for line in said if not line.startswith("pushed")]
            pushed += [line.split()[1] for line in said if line.startswith("pushed")]
        if n % CHECK_EVERY == CHECK_EVERY - 1 or n + 1 == rounds:
            for name, ids in accepted.items():
                sound(tmp_path / name, ids)
    clone_has(tmp_path / "clone-before", remote, pushed)
    for name in (*accepted, *accepted):
        Artifacts(StatePaths(tmp_path / name)).push()
    clone_has(tmp_path / "clone-after", remote, [*accepted["one"], *accepted["two"]])


def test_two_publishers_are_killed(tmp_path: Path) -> None:
    rounds_of_two_publishers(tmp_path, 2)


def test_two_pushers_are_killed(tmp_path: Path) -> None:
    rounds_of_two_pushers(tmp_path, 2)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_publishers_are_killed_a_thousand_times(tmp_path: Path) -> None:
    rounds_of_two_publishers(tmp_path, 500)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_pushers_are_killed_a_thousand_times(tmp_path: Path) -> None:
    rounds_of_two_pushers(tmp_path, 500)
