"""The processes that train one model together, as seen from one of them.

A run of one process has a group of one: every call below is then free, so that the trainer need
not ask which it is. With several, only the leader (rank 0) reports, saves and publishes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.worker.context import StepContext

if TYPE_CHECKING:
    from recipes.finetune.schema import Strategy

_FROZEN_POLL_S = 0.2


@dataclass(frozen=True)
class Group:
    """One process among ``size`` that train together.

    Args:
        rank: this process; 0 leads.
        size: how many there are.
        strategy: how the model is spread (``ddp``: not at all, every process holds it whole).
        launcher: process id of ``accelerate launch`` above this process, 0 where there is none.
    """

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"
    launcher: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process reports, saves and publishes."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether no process holds the whole model while it trains."""
        return self.size > 1 and self.strategy != "ddp"

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather([0])

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """``values`` of every process, by rank. Every process must call it."""
        if self.size == 1:
            return [list(values)]
        import torch
        import torch.distributed as dist

        # a GPU's collectives take tensors on the GPU; the numbers are few, exact up to 2**53
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mine = torch.tensor(list(values), dtype=torch.float64, device=device)
        every = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        return [item.tolist() for item in every]

    def wait_while_frozen(self) -> None:
        """Rest while the job is frozen.

        Freezing stops the worker's process group. Each rank has a session of its own, so that it
        is not in that group: it looks at its launcher, which is, and rests between two steps.
        """
        while self.launcher and _is_stopped(self.launcher):
            time.sleep(_FROZEN_POLL_S)


ALONE = Group()


@dataclass
class RankContext(StepContext):
    """A step's context in one of several processes: only the leader's words are written down."""

    group: Group = ALONE
    stop_file: Path | None = None
    """Made by the worker when a stop is asked for; the leader looks for it after every step."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def event(self, event_type: str, **fields: Any) -> None:
        """Append an event, in the leader only."""
        if self.group.leads:
            super().event(event_type, **fields)

    @property
    def stop_asked(self) -> bool:
        """Whether the worker has asked for a stop (``should_stop``: all ranks have agreed)."""
        return self.stop_file is not None and self.stop_file.exists()

    def agree_to_stop(self) -> None:
        """All ranks have heard of the stop: from now on ``should_stop`` holds."""
        self._stop.set()


def group_of(ctx: StepContext) -> Group:
    """The group that this process trains in."""
    return ctx.group if isinstance(ctx, RankContext) else ALONE


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        # the launcher is gone: the kernel is about to end this process, too
        return False
    return stat.rpartition(b")")[2].split()[0] == b"T"


def bind_to_parent(parent: int) -> None:
    """End this process when its parent dies, and at once where it is dead already.

    Args:
        parent: the process id that the parent must have.
    """
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
