"""Who may start where, decided from plain values: order, memory, backfill. No clocks, no I/O.

Rules, in this order: higher effective priority first, then submit order. A job passed over often
enough rises (aging counts jobs, not seconds, so that a jumping clock changes nothing). A job that
can't start reserves every lane it could use: nobody behind it gets one of those, so backfill never
delays it. A lane has one turn; a sharing job (a server) needs no turn, only its declared memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: A job rises by one priority for so many jobs that started although they came later.
AGING = 8

GIB = 1 << 30


@dataclass(frozen=True)
class Waiting:
    """A queued job's next step, as the scheduler sees it."""

    job_id: str
    seq: int
    priority: int = 0
    passed: int = 0
    """How many later jobs have started while this one waited."""
    lane: str = "auto"
    """``auto``, ``gpu`` or ``cpu``."""
    device: str | None = None
    """``cpu``, ``gpu``, or a GPU's UUID; narrows ``lane``."""
    need_bytes: int | None = None
    """On the CPU, or on each GPU."""
    shares: bool = False
    cards: int = 1
    """GPUs taken at once, where it runs on GPUs."""

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key: effective priority first, then submit order."""
        return (-(self.priority + self.passed // AGING), self.seq)


@dataclass(frozen=True)
class LaneState:
    """A lane at this moment. ``free`` already excludes what running jobs have yet to allocate."""

    name: str
    total: int
    free: int
    busy_with: str | None = None
    """Who has the turn, in words (``job 000012-abcd (train)``)."""
    holders: tuple[str, ...] = ()
    """Who holds memory, in words, largest first."""

    @property
    def is_gpu(self) -> bool:
        return self.name.startswith("gpu-")


@dataclass(frozen=True)
class Decision:
    """What to do now."""

    offers: tuple[tuple[str, str], ...]
    """``(job id, lane)``, in order."""
    reasons: dict[str, str]
    """Why every other job waits."""


def schedule(waiting: Iterable[Waiting], lanes: Sequence[LaneState]) -> Decision:
    """Decide which waiting jobs start on which lanes now, and why the others wait."""
    state = {lane.name: lane for lane in lanes}
    reserved: dict[str, str] = {}
    offers: list[tuple[str, str]] = []
    reasons: dict[str, str] = {}
    for job in sorted(waiting, key=lambda item: item.rank):
        fitting, impossible = _lanes_for(job, list(state.values()))
        if not fitting:
            reasons[job.job_id] = impossible
            continue
        wanted = job.cards if fitting[0].is_gpu else 1
        chosen = [lane for lane in fitting if _can_start(job, lane, reserved)][:wanted]
        if len(chosen) < wanted:
            reasons[job.job_id] = _why(job, fitting, reserved, wanted)
            for lane in fitting:
                reserved.setdefault(lane.name, job.job_id)
            continue
        offers.append((job.job_id, chosen[0].name))
        for lane in chosen:
            state[lane.name] = replace(
                lane,
                free=lane.free - (job.need_bytes or 0),
                busy_with=lane.busy_with if job.shares else f"job {job.job_id}",
            )
    return Decision(tuple(offers), reasons)


def _lanes_for(job: Waiting, lanes: list[LaneState]) -> tuple[list[LaneState], str]:
    """The lanes this job could ever use, best first, or the reason why there is none."""
    gpus = [lane for lane in lanes if lane.is_gpu]
    cpus = [lane for lane in lanes if not lane.is_gpu]
    device = job.device or "auto"
    if device not in ("auto", "cpu", "gpu"):
        allowed = [lane for lane in gpus if device in (lane.name, lane.name[4:])]
        missing = f"waiting for the GPU {device}: it is not in this machine"
    elif device == "cpu" or (job.lane == "cpu" and device == "auto"):
        allowed, missing = cpus, "waiting for a CPU lane"
    elif device == "gpu" or job.lane == "gpu":
        allowed, missing = gpus, "waiting for a GPU: there is none in this machine"
    else:
        allowed, missing = (gpus or cpus), "waiting for a lane"
    if not allowed:
        return [], missing
    need = job.need_bytes or 0
    fitting = [lane for lane in allowed if lane.total <= 0 or need <= lane.total]
    if not fitting:
        largest = max(allowed, key=lambda lane: lane.total)
        return [], (
            f"needs {gib(need)}, but the largest it may use ({largest.name}) has"
            f" {gib(largest.total)}: lower its settings, or set resources.memory"
        )
    if fitting[0].is_gpu and job.cards > len(fitting):
        return [], f"needs {job.cards} GPUs at once, {len(fitting)} of this machine's could do"
    # the fullest lane that fits leaves the others for larger jobs
    return sorted(fitting, key=lambda lane: (lane.free, lane.name)), ""


def _can_start(job: Waiting, lane: LaneState, reserved: dict[str, str]) -> bool:
    if lane.name in reserved:
        return False
    if lane.busy_with is not None and not job.shares:
        return False
    return job.need_bytes is None or job.need_bytes <= lane.free


def _why(job: Waiting, lanes: list[LaneState], reserved: dict[str, str], wanted: int) -> str:
    head = reserved.get(lanes[0].name)
    if head is not None and all(lane.name in reserved for lane in lanes):
        return f"waiting behind job {head}"
    if wanted > 1:
        ready = sum(_can_start(job, lane, reserved) for lane in lanes)
        return f"waiting for {wanted} GPUs at once: {ready} of {len(lanes)} are free for it"
    for lane in lanes:
        if lane.name not in reserved and (lane.busy_with is None or job.shares):
            held = f"; held by {', '.join(lane.holders[:3])}" if lane.holders else ""
            return (
                f"waiting for memory on {lane.name}: needs {gib(job.need_bytes or 0)},"
                f" {gib(max(0, lane.free))} free{held}"
            )
    busy = next((lane for lane in lanes if lane.busy_with), lanes[0])
    return f"waiting for the {busy.name} lane: {busy.busy_with} has it"


def gib(size: int) -> str:
    """A size in GiB, or MiB below one."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
