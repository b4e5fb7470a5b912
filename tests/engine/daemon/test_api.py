"""The public face: what screens and shells see of jobs and of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from engine.api import Workbench
from engine.errors import BadInput, Conflict, NotFound, OutOfSpace, Refused
from engine.types.jobs import JobState
from tests.faults.harness import Harness
from tests.support.plans import Step, plan


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path / "state")


def test_submit_freezes_the_recipe(bench: Workbench) -> None:
    text = 'recipe = 1\nname = "mine"\n'
    view = bench.jobs.submit(plan(name="mine", source_text=text, sha256="ab" * 32), 3)
    assert (view.state, view.priority, view.name) == (JobState.QUEUED, 3, "mine")
    assert view.recipe_sha256 == "ab" * 32
    assert bench.jobs.recipe_path(view.id).read_text() == text
    assert bench.jobs.plan(view.id)["name"] == "mine"
    assert bench.paths.root.stat().st_mode & 0o777 == 0o700
    assert bench.jobs.log_path(view.id).read_text() == ""
    assert bench.jobs.attempts(view.id) == ()


def test_requests_in_the_wrong_state_say_why(bench: Workbench) -> None:
    job = bench.jobs.submit(plan()).id
    with pytest.raises(Conflict, match="not paused"):
        bench.jobs.resume(job)
    with pytest.raises(Conflict, match="can't be deleted") as caught:
        bench.jobs.delete(job)
    assert f"jobs cancel {job}" in caught.value.hint
    assert bench.jobs.pause(job).state is JobState.PAUSED
    with pytest.raises(Conflict) as caught:
        bench.jobs.retry(job)
    assert f"jobs resume {job}" in caught.value.hint
    assert bench.jobs.resume(job).state is JobState.QUEUED
    assert bench.jobs.set_priority(job, 4).priority == 4
    assert bench.jobs.cancel(job).state is JobState.CANCELLED
    for request in (bench.jobs.cancel, bench.jobs.pause):
        with pytest.raises(Conflict, match="has ended"):
            request(job)
    assert bench.jobs.retry(job).state is JobState.QUEUED
    bench.jobs.cancel(job)
    bench.jobs.delete(job)
    with pytest.raises(NotFound):
        bench.jobs.get(job)


def test_events_are_read_by_offset(bench: Workbench) -> None:
    job = bench.jobs.submit(plan()).id
    path = bench.paths.job_events(job)
    assert bench.jobs.events(job).next_offset == 0
    path.write_text('{"type": "phase", "n": 1}\n{"type": "phase", "n": 2}\n{"type": "ph')
    page = bench.jobs.events(job)
    assert [event["n"] for event in page.events] == [1, 2]
    with open(path, "a") as file:
        file.write('ase", "n": 3}\nnot json\n\0\0\0{"n": 4}\n')
    page = bench.jobs.events(job, page.next_offset)
    assert [event["n"] for event in page.events] == [3, 4]
    assert bench.jobs.events(job, page.next_offset).events == ()
    path.write_text((json.dumps({"pad": "x" * 1000}) + "\n") * 3000)
    offset = count = 0
    while (page := bench.jobs.events(job, offset)).events:
        assert page.next_offset - offset <= 1 << 20
        count, offset = count + len(page.events), page.next_offset
    assert count == 3000


def test_a_job_is_watched_by_its_files(bench: Workbench) -> None:
    job = bench.jobs.submit(plan()).id
    with bench.jobs.growth(job[:6]) as growth:
        assert not growth.wait(0.0)
        bench.paths.job_events(job).write_text('{"type": "phase"}\n')
        assert growth.wait(60)


def test_changes_are_seen_from_every_thread(bench: Workbench) -> None:
    job = bench.jobs.submit(plan()).id
    seen = bench.jobs.changed()
    assert bench.jobs.changed() == seen
    thread = threading.Thread(target=bench.jobs.pause, args=(job,))
    thread.start()
    thread.join()
    # our own commits count, too
    after_other = bench.jobs.changed()
    assert after_other != seen
    bench.jobs.resume(job)
    assert bench.jobs.changed() != after_other
    assert bench.jobs.get(job).state is JobState.QUEUED


def test_no_space_no_job(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", str(10**9))
    with pytest.raises(OutOfSpace) as caught:
        bench.jobs.submit(plan())
    assert caught.value.exit_status == 8
    assert bench.jobs.list().jobs == ()


def test_no_job_on_a_network_file_system(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.daemon.space.file_system_of", lambda _: "nfs4")
    with pytest.raises(Refused, match="network file system"):
        bench.jobs.submit(plan())
    assert not bench.paths.jobs_db.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be someone else")
def test_another_user_is_not_answered(harness: Harness) -> None:
    """Even where the folder and the socket are open to all, the kernel tells who asks."""
    harness.start_engine()
    harness.paths.root.chmod(0o711)
    harness.paths.engine_socket.chmod(0o666)
    ask = (
        "import json, os, socket, sys\n"
        "try:\n    os.setgroups([]); os.setuid(int(sys.argv[1]))\n"
        "except OSError: sys.exit(77)\n"
        "conn = socket.socket(socket.AF_UNIX); conn.connect('engine.sock')\n"
        "conn.sendall(json.dumps({'op': 'stop', 'protocol': 1}).encode() + b'\\n')\n"
        "print(conn.makefile().readline())"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", ask, user],
            cwd=harness.paths.root,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        for user in ("65534", "0")
    ]
    if answers[0].returncode == 77:
        pytest.skip("this root can't be someone else: a container without the right, or the user")
    assert [done.returncode for done in answers] == [0, 0]
    assert json.loads(answers[0].stdout) == {"error": "another user's engine"}
    assert json.loads(answers[1].stdout) == {"ok": True}


def test_an_unknown_kind_is_refused_at_submit(bench: Workbench) -> None:
    with pytest.raises(NotFound, match="no kind"):
        bench.jobs.submit(plan(Step("a", "no-such-kind")))
    assert bench.jobs.list().jobs == ()


def huge_pages(pid: int | None) -> int:
    """Bytes of a process that lie in transparent huge pages."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("AnonHugePages:"):
                return int(line.split()[1]) * 1024
    return 0


def test_the_engine_through_the_face(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    system = Workbench(harness.paths.root).system
    assert not system.engine_status().running
    status = system.ensure_engine()
    assert status.running
    assert status.memory_bytes is not None
    # a kernel that makes every stack and heap of huge pages counts what nobody asked for
    assert status.memory_bytes - huge_pages(status.pid) < 45e6
    assert system.ensure_engine().pid == status.pid
    job = harness.submit(steps=100_000, step_s=0.05)
    harness.wait_for(lambda: harness.marked()["worker"])
    lanes = {lane.name: lane for lane in system.engine_status().lanes}
    assert (lanes["cpu"].job_id, lanes["cpu"].attempt) == (job, 1)
    assert system.freeze(job)
    assert system.freeze(job, thaw=True)
    other = system.restart_engine()
    assert other.pid != status.pid
    assert other.active == 1
    harness.jobs.cancel(job, now=True)
    harness.wait_ended(keep_engine=False)
    assert system.stop_engine()
    assert not system.stop_engine()


def test_settings_through_the_face(bench: Workbench) -> None:
    bench.system.set_setting("engine.grace_s", "30")
    assert bench.system.settings()["engine"]["grace_s"] == 30.0
    with pytest.raises(BadInput, match="there is no setting"):
        bench.system.set_setting("engine.grass", "1")
