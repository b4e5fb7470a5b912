"""One rank of a run on several processes. ``python -m recipes.finetune.ranks <spec file>``.

Started by ``accelerate launch``, which sets RANK, WORLD_SIZE and LOCAL_RANK. The leader writes the
step's result beside the spec file; a rank that fails writes why.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.worker.attempt import leave, log, prefer_for_oom_kill
from engine.worker.context import Stopped
from recipes.finetune.group import Group, RankContext, bind_to_parent
from recipes.finetune.launcher import LAUNCHER_ENV
from recipes.finetune.run import MODULES, is_out_of_memory, out_of_memory, set_up
from recipes.finetune.schema import FinetuneSpec

#: Ranks wait so long for one another: the leader samples and measures alone before training.
PATIENCE = timedelta(hours=4)
RESULT, STOP = "result.json", "stop"


def main() -> None:
    """Train, and leave the result or the reason of a failure behind."""
    bind_to_parent(int(os.environ[LAUNCHER_ENV]))
    prefer_for_oom_kill()
    file = Path(sys.argv[1])
    folder = file.parent
    values = json.loads(file.read_text())
    spec = FinetuneSpec.model_validate(values.pop("params"))
    rank = int(os.environ["RANK"])
    status = 0
    try:
        ctx = rank_context(values, spec, folder, rank)
        join(ctx)
        set_up(ctx)
        result = import_module(f"recipes.finetune.{MODULES[spec.train.method]}").train(ctx, spec)
        if ctx.group.leads:
            found = {"outputs": dict(result.outputs), "report": list(result.report)}
            write(folder / RESULT, {**found, "peak_memory_bytes": result.peak_memory_bytes})
    except Stopped:
        if rank == 0:
            write(folder / RESULT, {"stopped": True})
    except Exception as error:  # noqa: BLE001  whatever it was, the worker must be able to tell it
        log(traceback.format_exc())
        write(folder / f"failure-{rank}.json", describe(spec, error))
        status = 1
    leave(status)


def rank_context(
    values: dict[str, Any], spec: FinetuneSpec, folder: Path, rank: int
) -> RankContext:
    """The step's context as this rank sees it."""
    group = Group(
        rank,
        int(os.environ["WORLD_SIZE"]),
        spec.train.distributed.strategy,
        int(os.environ[LAUNCHER_ENV]),
    )
    recipe_dir = values.pop("recipe_dir")
    return RankContext(
        **values | {"paths": StatePaths(Path(values["paths"]))},
        params=spec,
        work_dir=folder.parent,
        recipe_dir=Path(recipe_dir) if recipe_dir else None,
        group=group,
        stop_file=folder / STOP,
    )


def join(ctx: RankContext) -> None:
    """Open the process group: NCCL between GPUs (each rank takes its own), gloo on the CPU."""
    from accelerate import PartialState

    PartialState(cpu=ctx.device == "cpu", timeout=PATIENCE)


def describe(spec: FinetuneSpec, error: BaseException) -> dict[str, Any]:
    """A failure as the worker reads it: the program's own errors by their class."""
    if is_out_of_memory(error):
        error = out_of_memory(spec, str(error).strip().partition("\n")[0])
    if isinstance(error, ModelOpsError):
        return {"kind": type(error).__name__, **error.to_json(), "t": time.time()}
    text = str(error).strip().splitlines()
    why = text[0][:500] if text else ""
    return {"kind": "", "what": type(error).__name__, "why": why, "hint": "", "t": time.time()}


def write(path: Path, value: dict[str, Any]) -> None:
    """Write a small JSON file in one rename: the worker never reads half of it."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, default=float))
    partial.rename(path)


if __name__ == "__main__":
    main()
