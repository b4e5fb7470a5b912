"""Who starts where: order, memory, sharing, backfill and aging, on plain values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.queue.schedule import AGING, GIB, Decision, LaneState, Waiting, schedule

CPU = LaneState("cpu", total=32 * GIB, free=30 * GIB)
SMALL = LaneState("gpu-small", total=24 * GIB, free=24 * GIB)
LARGE = LaneState("gpu-large", total=80 * GIB, free=80 * GIB)


def busy(lane: LaneState, free: int = 0, *holders: str) -> LaneState:
    return LaneState(lane.name, lane.total, free, "job 000001-aaaa (train)", holders)


def job(number: int, **rest: object) -> Waiting:
    return Waiting(f"j{number}", number, **rest)


def test_submit_order_then_priority() -> None:
    assert schedule([job(2), job(1)], [CPU]).offers == (("j1", "cpu"),)
    assert schedule([job(2, priority=1), job(1)], [CPU]).offers == (("j2", "cpu"),)


def test_a_job_passed_over_often_rises() -> None:
    old = job(1, passed=AGING * 3)
    assert schedule([job(9, priority=2), old], [CPU]).offers == (("j1", "cpu"),)
    assert schedule([job(9, priority=4), old], [CPU]).offers == (("j9", "cpu"),)


def test_auto_prefers_a_gpu_and_cpu_stays_on_the_cpu() -> None:
    decision = schedule([job(1), job(2, lane="cpu"), job(3, device="cpu")], [SMALL, CPU])
    assert decision.offers == (("j1", "gpu-small"), ("j2", "cpu"))
    assert "waiting for the cpu lane: job j2 has it" in decision.reasons["j3"]


def test_the_smallest_card_that_fits_is_taken() -> None:
    assert schedule([job(1, need_bytes=GIB)], [LARGE, SMALL]).offers == (("j1", "gpu-small"),)
    assert schedule([job(1, need_bytes=40 * GIB)], [LARGE, SMALL]).offers == (("j1", "gpu-large"),)


def test_several_cards_at_once() -> None:
    assert schedule([job(1, cards=2), job(2)], [LARGE, SMALL]).offers == (("j1", "gpu-small"),)
    decision = schedule([job(1, cards=2), job(2)], [busy(LARGE), SMALL])
    assert decision.offers == ()
    assert decision.reasons["j1"] == "waiting for 2 GPUs at once: 1 of 2 are free for it"
    assert decision.reasons["j2"] == "waiting behind job j1"
    too_many = schedule([job(1, cards=3), job(2)], [LARGE, SMALL])
    assert too_many.reasons["j1"] == "needs 3 GPUs at once, 2 of this machine's could do"
    assert too_many.offers == (("j2", "gpu-small"),)
    # each of them must have room
    assert schedule([job(1, cards=2, need_bytes=40 * GIB)], [LARGE, SMALL]).offers == ()
    # processes on a CPU share its one lane
    assert schedule([job(1, cards=2)], [CPU]).offers == (("j1", "cpu"),)


def test_a_pinned_card() -> None:
    assert schedule([job(1, device="large")], [SMALL, LARGE]).offers == (("j1", "gpu-large"),)
    reason = schedule([job(1, device="gone")], [SMALL]).reasons["j1"]
    assert "gone: it is not in this machine" in reason


def test_waiting_for_memory_names_the_holder() -> None:
    held = LaneState("gpu-small", 24 * GIB, 4 * GIB, None, ("job 000007-kkkk (serve): 20.0 GiB",))
    reason = schedule([job(1, need_bytes=12 * GIB)], [held]).reasons["j1"]
    assert reason == (
        "waiting for memory on gpu-small: needs 12.0 GiB, 4.0 GiB free;"
        " held by job 000007-kkkk (serve): 20.0 GiB"
    )


def test_waiting_for_the_turn_names_the_holder() -> None:
    reason = schedule([job(1)], [busy(CPU)]).reasons["j1"]
    assert reason == "waiting for the cpu lane: job 000001-aaaa (train) has it"


def test_what_never_fits_says_so_and_blocks_nobody() -> None:
    decision = schedule([job(1, need_bytes=200 * GIB), job(2)], [SMALL])
    assert decision.offers == (("j2", "gpu-small"),)
    assert (
        "needs 200.0 GiB, but the largest it may use (gpu-small) has 24.0 GiB"
        in (decision.reasons["j1"])
    )


def test_backfill_only_where_it_cannot_delay_the_head() -> None:
    head = job(1, need_bytes=40 * GIB)
    # the head waits for the large card: the small one, which it can never use, is free for others
    decision = schedule([head, job(2, need_bytes=GIB)], [busy(LARGE), SMALL])
    assert decision.offers == (("j2", "gpu-small"),)
    # a head that could use both keeps both
    head = job(1, need_bytes=20 * GIB)
    full = LaneState("gpu-small", 24 * GIB, 2 * GIB)
    decision = schedule([head, job(2, need_bytes=GIB)], [busy(LARGE), full])
    assert decision.offers == ()
    assert decision.reasons["j2"] == "waiting behind job j1"


def test_a_server_needs_memory_but_no_turn() -> None:
    training = busy(LARGE, 50 * GIB)
    server = job(1, need_bytes=20 * GIB, shares=True)
    assert schedule([server], [training]).offers == (("j1", "gpu-large"),)
    too_big = job(1, need_bytes=60 * GIB, shares=True)
    assert "waiting for memory" in schedule([too_big], [training]).reasons["j1"]
    # the memory of a server that starts now is not promised twice
    both = schedule(
        [server, job(2, need_bytes=40 * GIB)], [LaneState("gpu-large", 80 * GIB, 50 * GIB)]
    )
    assert both.offers == (("j1", "gpu-large"),)


lanes_of = st.lists(
    st.builds(
        LaneState,
        name=st.sampled_from(["cpu", "gpu-a", "gpu-b", "gpu-c"]),
        total=st.integers(1, 100),
        free=st.integers(-10, 100),
        busy_with=st.sampled_from([None, "job x"]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda lane: lane.name,
)
jobs_of = st.lists(
    st.builds(
        Waiting,
        job_id=st.uuids().map(str),
        seq=st.integers(1, 10**6),
        priority=st.integers(-3, 3),
        passed=st.integers(0, 100),
        lane=st.sampled_from(["auto", "cpu", "gpu"]),
        device=st.sampled_from([None, "cpu", "gpu", "a", "b", "z"]),
        need_bytes=st.none() | st.integers(1, 120),
        shares=st.booleans(),
    ),
    max_size=12,
    unique_by=(lambda job: job.job_id, lambda job: job.seq),
)


def check(jobs: list[Waiting], lanes: list[LaneState], decision: Decision) -> None:
    """Each job is offered once or has a reason; turns and memory are not given twice."""
    by_id = {job.job_id: job for job in jobs}
    offered = dict(decision.offers)
    assert len(offered) == len(decision.offers)
    assert set(offered) | set(decision.reasons) == set(by_id)
    assert not set(offered) & set(decision.reasons)
    for lane in lanes:
        here = [by_id[job_id] for job_id, name in decision.offers if name == lane.name]
        turns = [job for job in here if not job.shares]
        assert len(turns) <= (0 if lane.busy_with else 1)
        taken = sum(job.need_bytes or 0 for job in here)
        assert taken <= max(lane.free, 0) or not any(job.need_bytes for job in here)


@given(jobs_of, lanes_of)
def test_turns_and_memory_are_never_given_twice(
    jobs: list[Waiting], lanes: list[LaneState]
) -> None:
    check(jobs, lanes, schedule(jobs, lanes))


@given(jobs_of, lanes_of)
def test_nobody_behind_can_change_who_goes_first(
    jobs: list[Waiting], lanes: list[LaneState]
) -> None:
    """What the better-ranked half gets does not depend on the rest being there."""
    ranked = sorted(jobs, key=lambda job: job.rank)
    head = ranked[: len(ranked) // 2]
    alone = schedule(head, lanes)
    together = schedule(ranked, lanes)
    ids = {job.job_id for job in head}
    assert [o for o in together.offers if o[0] in ids] == list(alone.offers)
