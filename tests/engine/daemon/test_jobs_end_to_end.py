"""Jobs through a real engine: pipelines, failures, pause, freeze, secrets, retries, settings."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from engine.daemon import client
from engine.types.jobs import JobState
from tests.faults.harness import PATIENCE, Harness
from tests.faults.oracle import violations
from tests.support.plans import Step, plan


def run_plan(harness: Harness, *steps: Step, **rest: object) -> str:
    view = harness.jobs.submit(plan(*steps, **rest))
    harness.accepted.append(view.id)
    harness.wait_ended()
    return view.id


def patient(harness: Harness) -> None:
    """Leave a run that is asked to stop the time to save, however busy the machine is."""
    harness.paths.config.write_text("[engine]\ngrace_s = 100.0\n")


def test_outputs_flow_into_later_steps(harness: Harness) -> None:
    job = run_plan(
        harness,
        Step("a", params={"steps": 4}),
        Step(
            "b", params={"steps": 1, "value": "${a.total}", "tag": "from ${a.total}"}, needs=("a",)
        ),
    )
    first, second = harness.jobs.steps(job)
    assert first.outputs["total"] == 6.0
    assert second.outputs["tag"] == "from 6.0"
    view = harness.jobs.get(job)
    assert (view.state, view.steps_done, view.last_done) == (JobState.SUCCEEDED, 2, 1.0)
    spec = json.loads((harness.paths.attempt_dir(job, 2) / "spec.json").read_text())
    assert spec["params"]["value"] == 6.0


def test_a_failure_keeps_what_why_hint_and_is_not_retried(harness: Harness) -> None:
    job = run_plan(harness, Step("a", params={"steps": 5, "fail_at": 2}), Step("b", needs=("a",)))
    view = harness.jobs.get(job)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert (view.error["what"], view.error["why"]) == ("the probe was told to fail", "at step 2")
    assert view.attempt == 1
    states = [step.state for step in harness.jobs.steps(job)]
    assert states == [JobState.FAILED, JobState.CANCELLED]
    assert "the probe was told to fail" in harness.jobs.log_path(job).read_text()
    # after a retry the failed step runs again in the same job
    harness.jobs.retry(job)
    harness.wait_ended()
    assert harness.jobs.get(job).attempt == 2


def test_an_unexpected_error_keeps_its_traceback_in_the_log(harness: Harness) -> None:
    job = run_plan(harness, Step("a", params={"steps": 1, "ledger": "/nonexistent/ledger"}))
    view = harness.jobs.get(job)
    assert view.error is not None
    assert "FileNotFoundError" in view.error["what"]
    assert "Traceback" in harness.jobs.log_path(job).read_text()


def test_leaving_without_a_result_is_a_failure(harness: Harness) -> None:
    job = run_plan(harness, Step("a", params={"steps": 5, "exit_at": 2}))
    view = harness.jobs.get(job)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert "status 3" in view.error["why"]


def test_a_killed_worker_resumes_from_its_checkpoint(harness: Harness) -> None:
    job = run_plan(harness, Step("a", params={"steps": 9, "crash_at": 7, "checkpoint_every": 3}))
    step = harness.jobs.steps(job)[0]
    assert step.outputs == {"total": 36.0, "tag": "", "secret": "", "resumed_from": 6.0}
    first, second = harness.jobs.attempts(job)
    assert (first.state, second.state) == ("interrupted", "succeeded")
    assert first.exit is not None
    assert first.exit["signal"] == 9
    begun = [e for e in harness.jobs.events(job).events if e["type"] == "begun"]
    assert [e["reason"] for e in begun] == ["", "resumed from 6"]


@pytest.mark.parametrize(
    ("params", "attempts"),
    [({"crash_at": 1, "always_crash": True}, 2), ({"signal_at": 1}, 3)],
    ids=["killed", "crashed"],
)
def test_interruptions_without_progress_end(
    harness: Harness, params: dict[str, object], attempts: int
) -> None:
    harness.paths.config.write_text("[engine]\nmax_interruptions = 2\n")
    job = run_plan(harness, Step("a", params={"steps": 3, **params}))
    view = harness.jobs.get(job)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert f"interrupted {attempts} times without progress" in view.error["what"]
    assert view.attempt == attempts


def test_a_gate_stops_the_job_with_its_numbers(harness: Harness) -> None:
    job = run_plan(
        harness,
        Step("a", params={"steps": 4}),
        Step("b", needs=("a",), require={"a.total": "<= 5"}),
    )
    view = harness.jobs.get(job)
    assert view.state is JobState.FAILED
    assert "a.total is 6, it must be <= 5" in view.reason
    assert view.attempt == 1
    ok = run_plan(
        harness,
        Step("a", params={"steps": 3}),
        Step("b", needs=("a",), require={"a.total": "<= 5"}),
    )
    assert harness.jobs.get(ok).state is JobState.SUCCEEDED


def test_steps_are_remembered_by_content(harness: Harness) -> None:
    from engine.kinds import code_version, load_kinds

    versions = {"code_versions": {"probe": code_version(load_kinds().get("probe"))}}
    a = Step("a", params={"steps": 3})
    first = run_plan(harness, a, Step("b", params={"tag": "one"}), **versions)
    again = run_plan(harness, a, Step("b", params={"tag": "one"}), **versions)
    changed = run_plan(harness, a, Step("b", params={"tag": "two"}), **versions)
    assert harness.jobs.get(first).attempt == 2
    assert harness.jobs.get(again).attempt == 0
    assert harness.jobs.get(changed).attempt == 1
    steps = harness.jobs.steps(changed)
    assert [step.memo_of for step in steps] == [f"{first}/a", None]
    assert steps[0].outputs["total"] == 3.0
    assert "nothing changed" in steps[0].reason
    # other code, or --fresh: computed again
    other = run_plan(harness, a, Step("b"), code_versions={"probe": "another"})
    assert harness.jobs.get(other).attempt == 2
    view = harness.jobs.submit(plan(a, Step("b", params={"tag": "one"}), **versions), fresh=True)
    harness.accepted.append(view.id)
    harness.wait_ended()
    assert harness.jobs.get(view.id).attempt == 2


def test_a_matrix_goes_on_with_the_picked_point(harness: Harness) -> None:
    job = run_plan(
        harness,
        Step("a@1", params={"steps": 4, "tag": "four"}, point={"a.steps": 4}),
        Step("a@2", params={"steps": 2, "tag": "two"}, point={"a.steps": 2}),
        Step("b", params={"tag": "${pick.a.tag}"}, needs=("a@1", "a@2")),
        pick="min a.total",
    )
    assert harness.jobs.steps(job)[2].outputs["tag"] == "two"
    tables = [e for e in harness.jobs.events(job).events if e["type"] == "table"]
    assert tables[-1]["title"] == "matrix"
    assert "picked: point 2, by min a.total" in tables[-1]["notes"]


def test_secrets_are_resolved_in_the_worker_only(harness: Harness) -> None:
    harness.extra_env = {"PROBE_TOKEN": "s3cret-value"}
    job = run_plan(harness, Step("a", params={"tag": "$${keep}", "secret": "x-${env:PROBE_TOKEN}"}))
    assert harness.jobs.steps(job)[0].outputs["secret"] == "x-s3cret-value"
    assert harness.jobs.steps(job)[0].outputs["tag"] == "${keep}"
    written = [
        harness.paths.run_dir(job) / "plan.json",
        harness.paths.attempt_dir(job, 1) / "spec.json",
        harness.paths.job_events(job),
    ]
    for file in written:
        assert "s3cret-value" not in file.read_text(), file
    missing = run_plan(harness, Step("a", params={"secret": "${env:NOT_SET_HERE}"}))
    view = harness.jobs.get(missing)
    assert view.error is not None
    assert "NOT_SET_HERE is not set" in view.error["what"]
    assert "engine restart" in view.error["hint"]


def test_pause_saves_frees_the_lane_and_keeps_the_place(harness: Harness) -> None:
    patient(harness)
    harness.start_engine()
    with harness.held() as hold:
        long = harness.submit(steps=5, checkpoint_every=50, hold=hold)
        harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
        second = harness.submit(steps=3, hold=hold)
        third = harness.submit(steps=1)
        harness.jobs.pause(long)
        harness.wait_state(long, JobState.PAUSED)
        harness.wait_state(second, JobState.RUNNING)
        assert harness.jobs.get(long).reason == "paused"
        harness.jobs.resume(long)
    harness.wait_ended()
    begins = [line["job"] for line in harness.ledger_lines() if line["what"] == "begin"]
    # it was submitted before the third, so it goes before it
    assert begins == [long, second, long, third]
    resumed = harness.jobs.steps(long)[0].outputs["resumed_from"]
    assert resumed > 0
    assert violations(harness) == []


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_freeze_only_stops_the_clock(harness: Harness) -> None:
    harness.start_engine()
    with harness.held() as hold:
        job = harness.submit(steps=3, hold=hold)
        harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
        (worker,) = harness.marked()["worker"]
        assert client.ask(harness.paths, {"op": "freeze", "job": job}, PATIENCE) == {"ok": True}
        harness.wait_for(lambda: state_of(worker) == "T")
    before = len(harness.ledger_lines())
    # nothing holds the run now but the freeze
    time.sleep(0.3)
    assert len(harness.ledger_lines()) == before
    assert state_of(worker) == "T"
    client.ask(harness.paths, {"op": "thaw", "job": job}, PATIENCE)
    harness.wait_ended()
    assert [a.state for a in harness.jobs.attempts(job)] == ["succeeded"]
    assert client.ask(harness.paths, {"op": "freeze", "job": job}, PATIENCE) == {"ok": False}


def test_a_frozen_job_can_be_cancelled(harness: Harness) -> None:
    patient(harness)
    harness.start_engine()
    job = harness.submit(steps=100_000, step_s=0.05)
    harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
    client.ask(harness.paths, {"op": "freeze", "job": job}, PATIENCE)
    harness.jobs.cancel(job)
    harness.wait_ended()
    assert any(line["what"] == "stopped" for line in harness.ledger_lines())


def test_notifications(harness: Harness, tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    bodies: list[dict[str, object]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            bodies.append(json.loads(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = tmp_path / "told"
    harness.paths.config.write_text(
        f"[engine]\nnotify_command = 'echo $MODELOPS_JOB $MODELOPS_STATE >> {told}'\n"
        f"notify_webhook = 'http://127.0.0.1:{server.server_port}/'\n"
    )
    good = run_plan(harness, Step("a"))
    harness.wait_for(lambda: len(bodies) == 1)
    bad = run_plan(harness, Step("a", params={"fail_at": 0}))
    harness.wait_for(lambda: len(bodies) == 2 and told.read_text().count("\n") == 2)
    server.shutdown()
    assert told.read_text().splitlines() == [f"{good} succeeded", f"{bad} failed"]
    assert [(body["job"], body["state"]) for body in bodies] == [
        (good, "succeeded"),
        (bad, "failed"),
    ]


def test_logs_are_capped_by_holes(harness: Harness) -> None:
    harness.paths.config.write_text("[engine]\nlog_cap_mib = 2.0\n")
    harness.start_engine()
    job = harness.submit(steps=100_000, step_s=0.1, loud_kib=6 * 1024)
    log = harness.jobs.log_path(job)
    harness.wait_for(lambda: log.stat().st_size >= 6 << 20)
    harness.wait_for(lambda: log.stat().st_blocks * 512 <= 2 << 20)
    assert log.stat().st_size >= 6 << 20
    data = log.read_bytes()
    assert data[:4] == b"xxxx"
    assert data[-2:] == b"x\n"
    harness.jobs.cancel(job, now=True)
    harness.wait_ended()


def test_deleting_a_job_removes_its_folder(harness: Harness) -> None:
    job = run_plan(harness, Step("a"))
    folder = harness.paths.run_dir(job)
    assert folder.is_dir()
    harness.jobs.delete(job)
    assert not folder.exists()
    assert harness.jobs.list().jobs == ()
    assert run_plan is not None
    harness.accepted.clear()
    assert run_plan(harness, Step("a")) > job, "a number never comes back"


def test_the_worker_environment(harness: Harness) -> None:
    harness.start_engine()
    job = harness.submit(steps=100_000, step_s=0.05)
    harness.wait_for(lambda: any(line["what"] == "step" for line in harness.ledger_lines()))
    (worker,) = harness.marked()["worker"]
    raw = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    env = dict(item.decode().split("=", 1) for item in raw if b"=" in item)
    assert env["OMP_WAIT_POLICY"] == "passive"
    assert env["TOKENIZERS_PARALLELISM"] == "false"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["OMP_NUM_THREADS"] == "1"
    assert int(Path(f"/proc/{worker}/oom_score_adj").read_text()) == 600
    assert os.readlink(f"/proc/{worker}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{worker}/fd/1") == str(harness.jobs.log_path(job))
    harness.jobs.cancel(job, now=True)
    harness.wait_ended()


def test_an_older_engine_hands_over_to_a_newer_client(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer program replaces the engine; the run that goes on is adopted."""
    harness.start_engine()
    with harness.held() as hold:
        job = harness.submit(steps=3, hold=hold)
        harness.wait_for(lambda: harness.marked()["worker"])
        old, worker = client.hello(harness.paths, PATIENCE), harness.marked()["worker"]
        assert old is not None
        for name, value in harness.env.items():
            monkeypatch.setenv(name, value)
        # the same version changes nothing
        assert client.ensure(harness.paths)["pid"] == old["pid"]
        monkeypatch.setattr("engine.daemon.protocol.program_version", lambda: "999.0")
        new = client.ensure(harness.paths)
        assert new["pid"] != old["pid"]
        assert harness.marked()["worker"] == worker
    harness.wait_ended(keep_engine=False)
    assert [a.state for a in harness.jobs.attempts(job)] == ["succeeded"]
    client.stop(harness.paths)


def test_an_engine_that_cannot_start_shows_the_end_of_its_log(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import EngineUnavailable

    for name, value in harness.env.items():
        monkeypatch.setenv(name, value)
    harness.paths.config.write_text("[engine]\ngrace_s = 'soon'\n")
    with pytest.raises(EngineUnavailable, match="could not be started") as caught:
        client.start(harness.paths)
    assert "engine.grace_s is not valid" in caught.value.why


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_job_without_its_plan_fails_and_others_run(harness: Harness, damage: str) -> None:
    broken = harness.submit(steps=1)
    plan_file = harness.paths.run_dir(broken) / "plan.json"
    if damage == "gone":
        plan_file.unlink()
    else:
        plan_file.write_text('{"steps": [')
    fine = harness.submit(steps=1)
    harness.wait_ended()
    view = harness.jobs.get(broken)
    assert view.state is JobState.FAILED
    assert view.error is not None
    assert f"the plan of job {broken} is {damage}" in view.error["what"]
    assert harness.jobs.get(fine).state is JobState.SUCCEEDED


def test_a_job_accepted_by_another_version_runs_as_accepted_or_says_why_not(
    harness: Harness,
) -> None:
    """After an upgrade that took a key away, a job that has it is not run without it."""
    older = {"probe": "0123456789abcdef"}
    gone = run_plan(
        harness,
        Step("a", params={"steps": 2, "fuel": "coal"}),
        code_versions=older,
        sha256="1" * 64,
    )
    view = harness.jobs.get(gone)
    assert (view.state, view.attempt) == (JobState.FAILED, 1), "it is not tried again"
    assert view.error is not None
    assert view.error["code"] == "outdated"
    assert "step 'a' with the parameters it was accepted with" in view.error["what"]
    assert "`fuel`: Extra inputs are not permitted" in view.error["why"]
    assert "0123456789abcdef" in view.error["why"]
    assert f"jobs recipe {gone}" in view.error["hint"]
    # what still fits runs, with the accepted values
    kept = run_plan(harness, Step("a", params={"steps": 3}), code_versions=older)
    assert harness.jobs.steps(kept)[0].outputs["total"] == 3.0


def test_a_damaged_result_is_no_result(harness: Harness) -> None:
    """A disk that lost its last writes: the attempt is judged by what else it left."""
    with harness.held() as hold:
        job = harness.submit(steps=5, checkpoint_every=2, hold=hold)
        harness.start_engine()
        harness.wait_for(lambda: harness.marked()["worker"])
        harness.kill_engine()
    harness.wait_for(lambda: not harness.marked()["shim"])
    folder = harness.paths.attempt_dir(job, 1)
    (folder / "result.json").write_text('{"attempt": 1, "sta')
    (folder / "exit.json").unlink()
    harness.wait_ended()
    assert [a.state for a in harness.jobs.attempts(job)] == ["interrupted", "succeeded"]
    assert harness.jobs.steps(job)[0].outputs["resumed_from"] == 4.0


def sweep(*fail_at: int) -> list[Step]:
    steps = []
    for number, bad in enumerate(fail_at, start=1):
        point = {"a.fail_at": bad}
        params = {"steps": number + 1, "fail_at": bad, "tag": f"point {number}"}
        steps.append(Step(f"a@{number}", params=params, point=point))
        steps.append(
            Step(
                f"b@{number}",
                params={"tag": f"${{a@{number}.tag}}"},
                needs=(f"a@{number}",),
                point=point,
            )
        )
    return steps


def test_a_failed_point_does_not_end_the_sweep(harness: Harness) -> None:
    last = Step("c", params={"tag": "${pick.b.tag}"}, needs=("b@1", "b@2", "b@3"))
    job = run_plan(harness, *sweep(0, -1, -1), last, pick="min a.total")
    view = harness.jobs.get(job)
    assert view.state is JobState.SUCCEEDED
    assert view.reason == "1 of 3 points failed: a@1"
    steps = {step.name: step for step in harness.jobs.steps(job)}
    assert steps["a@1"].state is JobState.FAILED
    assert steps["b@1"].reason == "not run: a@1 failed"
    assert steps["c"].outputs["tag"] == "point 2"


def test_a_sweep_without_a_good_point_fails(harness: Harness) -> None:
    last = Step("c", params={"tag": "${pick.b.tag}"}, needs=("b@1", "b@2"))
    job = run_plan(harness, *sweep(0, 1), last, pick="min a.total")
    view = harness.jobs.get(job)
    assert view.state is JobState.FAILED
    assert view.reason == "the probe was told to fail"
    assert harness.jobs.steps(job)[-1].state is JobState.CANCELLED
    assert view.attempt == 2
    # a retry runs the failed points again, in the same job
    harness.jobs.retry(job)
    harness.wait_ended()
    assert harness.jobs.get(job).attempt == 4
