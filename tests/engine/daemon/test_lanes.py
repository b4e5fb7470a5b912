"""Lanes and admission through a real engine; fake cards stand for hardware that is not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.devices import probe
from engine.types.jobs import JobState
from tests.faults.harness import Harness
from tests.faults.oracle import violations
from tests.support.plans import Step

GIB = 1 << 30


@pytest.fixture
def cards(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    file = harness.root / "gpus.json"
    cards = [
        {"uuid": "GPU-aaaa", "total": 24 * GIB, "free": 24 * GIB},
        {"uuid": "GPU-bbbb", "total": 80 * GIB, "free": 80 * GIB},
    ]
    file.write_text(json.dumps(cards))
    harness.extra_env = {probe.ENV_FAKE: str(file)}
    monkeypatch.setenv(probe.ENV_FAKE, str(file))
    return cards


def set_free(harness: Harness, cards: list[dict[str, Any]], free: dict[str, int]) -> None:
    for card in cards:
        card["free"] = free.get(card["uuid"], card["free"])
    (harness.root / "gpus.json").write_text(json.dumps(cards))


def gpu_job(harness: Harness, kind: str = "probe", **params: Any) -> str:
    step = Step("probe", kind=kind, lane="auto", params={"ledger": str(harness.ledger), **params})
    return harness.submit_steps(step)


def memory(size: str, device: str = "auto") -> dict[str, Any]:
    return {"resources": {"memory": size, "device": device}}


def test_each_card_has_a_lane_and_the_worker_sees_only_its_own(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    harness.start_engine()
    with harness.held() as hold:
        first = gpu_job(harness, steps=3, hold=hold)
        second = gpu_job(harness, steps=3, hold=hold)
        third = gpu_job(harness, steps=1)
        harness.wait_state(second, JobState.RUNNING)
        harness.wait_for(lambda: "has it" in harness.jobs.get(third).reason)
        lanes = {harness.jobs.get(job).lane for job in (first, second)}
        assert lanes == {"gpu-GPU-aaaa", "gpu-GPU-bbbb"}
    harness.wait_ended()
    seen = {line["job"]: line["lane"] for line in harness.ledger_lines() if line["what"] == "begin"}
    for job in (first, second):
        assert f"gpu-{seen[job]}" == harness.jobs.get(job).lane
    harness.stop_engine()
    assert violations(harness) == []


def test_a_job_that_does_not_fit_waits_and_names_the_holder(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    set_free(harness, cards, {"GPU-bbbb": 10 * GIB})
    harness.start_engine()
    large = gpu_job(harness, **memory("40 GiB"))
    harness.wait_for(lambda: "waiting for memory" in harness.jobs.get(large).reason)
    assert "gpu-GPU-bbbb: needs 40.0 GiB, 10.0 GiB free" in harness.jobs.get(large).reason
    # backfill: the small card is of no use to the head
    small = gpu_job(harness, **memory("8 GiB"))
    harness.wait_state(small, JobState.SUCCEEDED)
    assert harness.jobs.get(small).lane == "gpu-GPU-aaaa"
    # what could delay the head waits behind it
    behind = gpu_job(harness, **memory("8 GiB", "GPU-bbbb"))
    harness.wait_for(lambda: harness.jobs.get(behind).reason == f"waiting behind job {large}")
    set_free(harness, cards, {"GPU-bbbb": 80 * GIB})
    harness.wait_ended()
    begins = [line["job"] for line in harness.ledger_lines() if line["what"] == "begin"]
    assert begins == [small, large, behind]


def test_a_step_on_two_cards_takes_both_or_waits(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    two = {"train": {"distributed": {"processes": 2}}}
    harness.start_engine()
    with harness.held() as hold:
        first = gpu_job(harness, steps=3, hold=hold)
        harness.wait_state(first, JobState.RUNNING)
        both = gpu_job(harness, steps=2, **two)
        harness.wait_for(lambda: "2 GPUs at once" in harness.jobs.get(both).reason)
        # the free card is kept for it: nobody who came later slips in
        later = gpu_job(harness)
        harness.wait_for(lambda: harness.jobs.get(later).reason == f"waiting behind job {both}")
    harness.wait_ended()
    begins = {
        line["job"]: line["lane"] for line in harness.ledger_lines() if line["what"] == "begin"
    }
    assert sorted(begins[both].split(",")) == ["GPU-aaaa", "GPU-bbbb"]
    harness.stop_engine()
    assert violations(harness) == []


def test_both_cards_stay_taken_when_the_engine_is_killed(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    harness.start_engine()
    with harness.held() as hold:
        both = gpu_job(harness, steps=3, hold=hold, train={"distributed": {"processes": 2}})
        harness.wait_state(both, JobState.RUNNING)
        harness.kill_engine()
        harness.start_engine()
        third = gpu_job(harness)
        harness.wait_for(lambda: "has it" in harness.jobs.get(third).reason)
        four = gpu_job(harness, train={"distributed": {"processes": 4}})
        harness.wait_for(lambda: "needs 4 GPUs at once" in harness.jobs.get(four).reason)
    harness.wait_state(third, JobState.SUCCEEDED)
    assert harness.jobs.get(both).state is JobState.SUCCEEDED
    harness.jobs.cancel(four)


def test_a_server_holds_its_share_beside_training(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    harness.start_engine()
    server = gpu_job(
        harness, "probe-server", steps=100_000, step_s=0.05, **memory("60 GiB", "GPU-bbbb")
    )
    harness.wait_state(server, JobState.RUNNING)
    # 80 GiB free by the (fake) card, 60 of them promised to the server
    too_large = gpu_job(harness, **memory("30 GiB"))
    harness.wait_for(lambda: "waiting for memory" in harness.jobs.get(too_large).reason)
    assert f"job {server} (probe): 60.0 GiB" in harness.jobs.get(too_large).reason
    fits = gpu_job(harness, **memory("15 GiB", "GPU-aaaa"))
    harness.wait_state(fits, JobState.SUCCEEDED)
    harness.kill_engine()
    harness.start_engine()
    harness.wait_for(lambda: harness.jobs.get(server).state is JobState.RUNNING)
    harness.jobs.cancel(server)
    harness.wait_state(too_large, JobState.SUCCEEDED)


def test_the_measured_peak_takes_over_from_the_estimate(harness: Harness) -> None:
    harness.start_engine()
    first = harness.submit(steps=1, hog_mib=64)
    harness.wait_state(first, JobState.SUCCEEDED)
    conn = harness.jobs._conn()
    harness.wait_for(lambda: conn.execute("SELECT count(*) FROM peaks").fetchone()[0] == 1)
    (row,) = conn.execute("SELECT * FROM peaks").fetchall()
    assert row["device"] == "cpu"
    # 64 MiB and the interpreter
    assert 64 << 20 < row["bytes"] < 200 << 20
    second = harness.submit(steps=1, hog_mib=64)
    signature = conn.execute(
        "SELECT s.signature FROM steps s WHERE s.job_id=?", (second,)
    ).fetchone()[0]
    assert signature == row["signature"]
    harness.wait_state(second, JobState.SUCCEEDED)


def test_a_step_of_several_processes_tells_its_own_peak(harness: Harness) -> None:
    harness.start_engine()
    job = harness.submit(steps=1, tells_mib=900)
    harness.wait_state(job, JobState.SUCCEEDED)
    conn = harness.jobs._conn()
    harness.wait_for(lambda: conn.execute("SELECT count(*) FROM peaks").fetchone()[0] == 1)
    assert conn.execute("SELECT bytes FROM peaks").fetchone()[0] == 900 << 20


def test_a_cpu_step_beside_cards_is_admitted_by_its_peak_in_ram(
    harness: Harness, cards: list[dict[str, Any]]
) -> None:
    from engine.daemon.admission import Admission
    from engine.daemon.settings import EngineSettings
    from engine.store import run

    harness.submit(steps=1)
    conn = harness.jobs._conn()
    (signature,) = conn.execute("SELECT signature FROM steps").fetchone()
    run.remember_peak(conn, signature, "cpu", 10**15, 1.0)
    decision = Admission(harness.paths, EngineSettings()).decide(conn, [], set())
    (reason,) = decision.reasons.values()
    assert reason.startswith(f"needs {1.1e15 / GIB:.1f} GiB, but the largest it may use (cpu)")


def test_priority_goes_first(harness: Harness) -> None:
    harness.start_engine()
    with harness.held() as hold:
        first = harness.submit(steps=3, hold=hold)
        harness.wait_state(first, JobState.RUNNING)
        low = harness.submit(steps=1)
        params = {"ledger": str(harness.ledger)}
        high = harness.submit_steps(Step("probe", params=params), priority=5)
    harness.wait_ended()
    begins = [line["job"] for line in harness.ledger_lines() if line["what"] == "begin"]
    assert begins[1:] == [high, low]


def test_two_cpu_lanes(harness: Harness) -> None:
    harness.paths.config.write_text("[engine]\ncpu_lanes = 2\n")
    harness.start_engine()
    with harness.held() as hold:
        jobs = [harness.submit(steps=3, hold=hold, ledger="") for _ in range(3)]
        harness.wait_state(jobs[1], JobState.RUNNING)
        assert harness.jobs.get(jobs[2]).state is JobState.QUEUED
        assert {harness.jobs.get(job).lane for job in jobs[:2]} == {"cpu", "cpu-2"}
    harness.wait_ended()
