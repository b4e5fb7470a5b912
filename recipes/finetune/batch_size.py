"""``batch = "auto"``: solved from the memory, and halved after memory ran out all the same."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from engine.supervise.durable import write_json_durably

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.session import Session

_FILE = "batch.json"


def sizes(session: Session) -> tuple[int, int]:
    """``(max_length, batch)``, solved from the memory where the recipe says ``auto``.

    The numbers are kept in the work folder: a later attempt resumes with the same ones, whatever
    memory is free by then.
    """
    spec, ctx = session.spec, session.ctx
    if spec.data.max_length != "auto" and spec.train.batch != "auto":
        return spec.data.max_length, spec.train.batch
    kept = _read(ctx)
    if kept is None:
        from recipes.finetune.fit import solve

        kept = solve(spec, ctx.paths, session.device)
        _write(ctx, *kept)
    elif killed_for_memory(ctx) and spec.train.batch == "auto" and halve_batch(ctx):
        kept = _read(ctx) or kept
        ctx.note("the attempt before was killed for its memory: half the batch", level="warning")
    ctx.note(f"auto: batch {kept[1]}, max_length {kept[0]}")
    return kept


def halve_batch(ctx: StepContext) -> bool:
    """Halve the batch kept for this step; False where it is 1 already (or was never solved)."""
    kept = _read(ctx)
    if kept is None or kept[1] <= 1:
        return False
    _write(ctx, kept[0], kept[1] // 2)
    return True


def killed_for_memory(ctx: StepContext) -> bool:
    """Whether the attempt before this one ended by SIGKILL without anyone asking for it."""
    file = ctx.paths.attempt_dir(ctx.job_id, ctx.attempt - 1) / "exit.json"
    try:
        ended = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return ended.get("signal") == signal.SIGKILL and not ended.get("stop")


def _read(ctx: StepContext) -> tuple[int, int] | None:
    file = ctx.work_dir / _FILE
    if not file.exists():
        return None
    values = json.loads(file.read_text())
    return int(values["max_length"]), int(values["batch"])


def _write(ctx: StepContext, max_length: int, batch: int) -> None:
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    write_json_durably(ctx.work_dir / _FILE, {"max_length": max_length, "batch": batch})
