"""Two jobs side by side, from what they left on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.api import Workbench
from engine.api.comparing import compare
from engine.errors import NotFound
from engine.recipe import prepare

RECIPE = """
kind = "finetune"
base = "smollm2-135m-instruct"
[data]
train = "house/train"
[train]
lr = {lr}
"""


def submitted(bench: Workbench, folder: Path, lr: float, losses: list[float]) -> str:
    """A job of that rate whose training reported these losses."""
    path = folder / f"{lr}.toml"
    path.write_text(RECIPE.format(lr=lr))
    job = bench.jobs.submit(prepare(path, (), bench.paths)).id
    events = [
        {"type": "metrics", "step": "finetune", "done": step, "loss": loss, "t": 1.0, "attempt": 1,
         "peak_memory_bytes": step * 10**9}
        for step, loss in enumerate(losses, 1)
    ]  # fmt: skip
    # a resumed attempt says some of it again, and a killed one leaves half a line
    lines = [json.dumps(event) for event in [*events, {**events[-1], "loss": losses[-1] - 0.5}]]
    bench.paths.job_events(job).write_text("\n".join(lines) + '\n{"type": "met')
    return job


@pytest.mark.usefixtures("roomy_disk")
def test_settings_losses_and_memory_stand_side_by_side(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "state")
    bench.paths.ensure()
    first = submitted(bench, tmp_path, 1e-4, [3.0, 2.5, 2.0])
    second = submitted(bench, tmp_path, 2e-4, [3.0, 1.5])
    found = compare(bench.jobs, first, second)
    assert (found.left.id, found.right.id) == (first, second)
    assert ("finetune.train.lr", 1e-4, 2e-4) in found.settings
    assert all(a != b for _, a, b in found.settings)
    figures = {name: (a, b) for name, a, b in found.figures}
    assert figures["finetune.last loss"] == (1.5, 1.0)
    assert figures["finetune.best loss"] == (1.5, 1.0)
    assert figures["finetune.peak memory, GB"] == (3.0, 2.0)
    assert found.loss == (((1, 3.0), (2, 2.5), (3, 1.5)), ((1, 3.0), (2, 1.0)))
    assert found.held_out == ((), ())
    assert compare(bench.jobs, first, first).settings == ()
    with pytest.raises(NotFound):
        compare(bench.jobs, first, "nothing")
