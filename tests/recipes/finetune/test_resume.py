"""Killed runs go on exactly: the same weights, byte for byte, as a run that was never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.paths import StatePaths
from engine.registry import Registry
from engine.worker.context import Stopped
from recipes.finetune import watching
from tests.support.step import events, make_context, run_step
from tests.support.tiny_model import write_jsonl

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import json, sys, time
from pathlib import Path
from engine.worker.context import StepContext
from tests.support.step import run_step
tell, last = StepContext.event, int(sys.argv[3]) if len(sys.argv) > 3 else 0
def event(self, kind, **fields):
    tell(self, kind, **fields)
    if last and kind == "checkpoint" and fields["done"] >= last:
        time.sleep(600)
StepContext.event = event
run_step(Path(sys.argv[1]), "finetune", json.loads(sys.argv[2]))
"""


def params(model: Path, rows: Path, **train: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "max_length": 128},
        "train": {
            "lr": 1e-2,
            "epochs": 2,
            "dropout": 0.1,
            "accumulate": 2,
            "save_every": 1,
            "samples": 0,
            **train,
        },
    }


def weights(home: Path, manifest: str) -> bytes:
    folder = Registry.open(StatePaths(home)).materialize(manifest)
    (file,) = folder.glob("*.safetensors")
    return file.read_bytes()


def run_and_kill(home: Path, recipe: dict[str, Any], after_step: int, *, seen: str = "") -> None:
    """Run in a process of its own and SIGKILL it once ``after_step`` is checkpointed.

    It goes on meanwhile, for five checkpoints at most: on a busy machine it would be done before we
    look. Or kill it once ``seen`` stands in the events, for methods without checkpoints.
    """
    awaited = seen or f'"type": "checkpoint", "done": {after_step}'
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), json.dumps(recipe), str(after_step + 5)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    log = StatePaths(home).job_events("job1")
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline and child.poll() is None:
            text = log.read_text() if log.exists() else ""
            if awaited in text:
                break
            time.sleep(0.002)
        assert child.poll() is None, (child.stderr.read() if child.stderr else b"").decode()
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stderr:
            child.stderr.close()


@pytest.mark.parametrize(
    "train",
    [
        pytest.param({"method": "lora"}, id="lora"),
        pytest.param(
            {"method": "full", "lr": 1e-3, "group_by_length": True},
            id="full",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {"method": "lora", "packing": True, "batch": 1}, id="packed", marks=pytest.mark.nightly
        ),
        pytest.param({"method": "pretrain", "lr": 1e-3}, id="pretrain", marks=pytest.mark.nightly),
        pytest.param({"method": "dora"}, id="dora", marks=pytest.mark.nightly),
        pytest.param(
            {"method": "lora", "batch": 2, "accumulate": 1, "distributed": {"processes": 2}},
            id="ddp",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {
                "method": "full",
                "lr": 1e-3,
                "batch": 2,
                "accumulate": 1,
                "distributed": {"processes": 2, "strategy": "fsdp"},
            },
            id="fsdp",
            marks=pytest.mark.nightly,
        ),
        *(
            pytest.param(
                {
                    "method": "full",
                    "lr": 1e-3,
                    "batch": 2,
                    "accumulate": 1,
                    "distributed": {"processes": 2, "strategy": "deepspeed", "zero_stage": stage},
                },
                id=f"zero-{stage}",
                marks=[
                    pytest.mark.nightly,
                    pytest.mark.skipif(
                        find_spec("deepspeed") is None, reason="DeepSpeed is an extra"
                    ),
                ],
            )
            for stage in (2, 3)
        ),
        pytest.param({"method": "qlora"}, id="qlora", marks=pytest.mark.nightly),
        pytest.param({"method": "dpo"}, id="dpo", marks=pytest.mark.nightly),
        pytest.param({"method": "kto"}, id="kto", marks=pytest.mark.nightly),
        pytest.param({"method": "orpo"}, id="orpo", marks=pytest.mark.nightly),
        pytest.param({"method": "grpo", "batch": 4}, id="grpo", marks=pytest.mark.nightly),
    ],
)
def test_kill_and_resume_is_bit_identical(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, train: dict[str, Any]
) -> None:
    recipe = params(tiny_model, tiny_chat, **train)
    bundled = {
        "dpo": "house/preferences",
        "orpo": "house/preferences",
        "kto": "house/feedback",
        "grpo": "house/prompts",
    }
    if train["method"] in bundled:
        recipe["data"] = {"train": bundled[train["method"]], "max_length": 400, "rows": 32}
    if train["method"] == "pretrain":
        texts = [{"text": line} for line in (ROOT / "LICENSE").read_text().splitlines() if line]
        recipe["data"] = {"train": str(write_jsonl(tmp_path / "t.jsonl", texts)), "max_length": 96}
    if train["method"] == "grpo":
        recipe["preference"] = {"reward": "house-style", "answer_tokens": 6}
    whole = run_step(tmp_path / "whole", "finetune", recipe)
    run_and_kill(tmp_path / "broken", recipe, after_step=3)
    resumed = run_step(tmp_path / "broken", "finetune", recipe)

    notes = [e["text"] for e in events(tmp_path / "broken", "note")]
    assert any(text.startswith("going on from step") for text in notes), notes
    assert weights(tmp_path / "broken", str(resumed.outputs["model"])) == weights(
        tmp_path / "whole", str(whole.outputs["model"])
    )
    assert resumed.outputs["loss"] == whole.outputs["loss"]
    by_step: dict[int, set[float]] = {}
    for home in ("whole", "broken"):
        for event in events(tmp_path / home, "metrics"):
            if "loss" in event:
                by_step.setdefault(event["done"], set()).add(event["loss"])
    assert all(len(values) == 1 for values in by_step.values()), by_step


@pytest.mark.nightly
@pytest.mark.parametrize("head", ["linear", "spiking"])
def test_a_killed_reward_model_ends_with_the_same_head(
    tmp_path: Path, tiny_model: Path, head: str
) -> None:
    """Its features are kept; the heads are trained anew, from the same seed."""
    recipe = {
        "base": str(tiny_model),
        "data": {"train": "house/preferences", "max_length": 400, "rows": 32},
        "train": {"method": "reward", "epochs": 60},
        "preference": {"head": head},
    }
    whole = run_step(tmp_path / "whole", "finetune", recipe)
    run_and_kill(tmp_path / "broken", recipe, 0, seen=f"training the {head} head")
    resumed = run_step(tmp_path / "broken", "finetune", recipe)

    phases = [e["name"] for e in events(tmp_path / "broken", "phase")]
    assert phases.count(f"training the {head} head") == 2
    read = [e["name"] for e in events(tmp_path / "whole", "phase")]
    reading = "reading the base's hidden states"
    assert phases.count(reading) == read.count(reading) == 2
    assert weights(tmp_path / "broken", str(resumed.outputs["model"])) == weights(
        tmp_path / "whole", str(whole.outputs["model"])
    )


def test_a_stop_saves_and_the_next_attempt_goes_on(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # every step is told, however quick
    monkeypatch.setattr(watching, "_MIN_EVENT_GAP", 0.0)
    recipe = params(tiny_model, tiny_chat, save_every=1000)
    whole = run_step(tmp_path / "whole", "finetune", recipe)

    from recipes.finetune.run import run

    ctx = make_context(tmp_path / "stopped", "finetune", recipe)
    real, seen = ctx.event, []

    def event(event_type: str, **fields: Any) -> None:
        real(event_type, **fields)
        if event_type == "metrics":
            seen.append(fields["done"])
            if len(seen) == 2:
                ctx._stop.set()

    ctx.event = event  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(ctx)
    saved = [e["done"] for e in events(tmp_path / "stopped", "checkpoint")]
    assert len(saved) == 1
    assert 0 < saved[0] < 12
    resumed = run_step(tmp_path / "stopped", "finetune", recipe)
    assert weights(tmp_path / "stopped", str(resumed.outputs["model"])) == weights(
        tmp_path / "whole", str(whole.outputs["model"])
    )


def test_another_configuration_does_not_resume(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    run_step(tmp_path / "home", "finetune", params(tiny_model, tiny_chat, save_every=2))
    other = params(tiny_model, tiny_chat, save_every=2, batch=2)
    run_step(tmp_path / "home", "finetune", other, job="job1")
    notes = [e["text"] for e in events(tmp_path / "home", "note")]
    assert any("another configuration" in text for text in notes)
    assert not any(text.startswith("going on from") for text in notes)


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    recipe = params(tiny_model, tiny_chat)
    run_step(tmp_path / "home", "finetune", recipe)
    folder = StatePaths(tmp_path / "home").step_work("job1", "train") / "checkpoints"
    newest, before = sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True
    )
    with open(newest / "optimizer.pt", "r+b") as file:
        file.seek(100)
        file.write(b"\0" * 64)
    run_step(tmp_path / "home", "finetune", recipe)
    notes = [e["text"] for e in events(tmp_path / "home", "note")]
    assert f"going on from step {before.name.rpartition('-')[2]}" in notes
