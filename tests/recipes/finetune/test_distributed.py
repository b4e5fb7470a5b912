"""Several processes for one run: real ranks on the CPU, through ``accelerate launch``."""

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

from engine.errors import BadInput, DoesNotFit, ModelOpsError, OutOfSpace, StepFailed
from engine.paths import StatePaths
from engine.recipe.check import CheckContext
from engine.registry import Registry
from engine.types.system import EstimateContext
from engine.worker.context import Stopped
from recipes.finetune import distributed, fit, together
from recipes.finetune.check import check
from recipes.finetune.group import ALONE, Group
from recipes.finetune.ranks import describe
from recipes.finetune.schema import FinetuneSpec
from tests.recipes.finetune.test_full_disk import file_limit
from tests.recipes.finetune.test_resume import CHILD, ROOT, weights
from tests.support.step import events, make_context, run_step

WITH_DEEPSPEED = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is an extra: pip install deepspeed"
)


def recipe(model: Path, rows: Path, **train: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": {"train": str(rows), "eval": str(rows), "max_length": 128},
        "train": {
            "lr": 1e-2,
            "epochs": 1,
            "precision": "fp32",
            "samples": 0,
            "save_every": 2,
            **train,
        },
    }


def losses(home: Path, manifest: str) -> list[float]:
    folder = Registry.open(StatePaths(home)).materialize(manifest)
    return [loss for _, loss in json.loads((folder / "training.json").read_text())["losses"]]


def ranks_alive(home: Path) -> list[int]:
    """Processes of the run under ``home``, by their command lines."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"recipes.finetune.ranks" in words and str(home).encode() in b" ".join(words):
                found.append(int(place.name))
    return found


@pytest.mark.parametrize(
    "train",
    [
        pytest.param({}, id="ddp", marks=pytest.mark.slow),
        pytest.param({"strategy": "fsdp", "eval_every": 5}, id="fsdp", marks=pytest.mark.nightly),
        pytest.param(
            {"strategy": "fsdp", "method": "full", "lr": 1e-3},
            id="fsdp-full",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            {"strategy": "fsdp", "checkpointing": True},
            id="fsdp-checkpointing",
            marks=pytest.mark.nightly,
        ),
        pytest.param({"accumulate": 2}, id="ddp-accumulate", marks=pytest.mark.nightly),
        pytest.param({"method": "dora"}, id="ddp-dora", marks=pytest.mark.nightly),
        pytest.param({"method": "qlora"}, id="ddp-qlora", marks=pytest.mark.nightly),
        pytest.param({"padding_free": True}, id="ddp-padding-free", marks=pytest.mark.nightly),
        *(
            pytest.param(
                {"strategy": "deepspeed", "zero_stage": stage, **more},
                id=f"zero-{stage}-{more['method']}",
                marks=[WITH_DEEPSPEED, pytest.mark.nightly],
            )
            for stage in (1, 2, 3)
            for more in ({"method": "lora"}, {"method": "full", "lr": 1e-3})
        ),
    ],
)
def test_two_processes_train_as_one(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, train: dict[str, Any]
) -> None:
    asked = {key: train.pop(key) for key in ("strategy", "zero_stage") if key in train}
    one = run_step(tmp_path / "one", "finetune", recipe(tiny_model, tiny_chat, batch=4, **train))
    several = recipe(tiny_model, tiny_chat, batch=2, **train)
    several["train"]["distributed"] = {"processes": 2, **asked}
    two = run_step(tmp_path / "two", "finetune", several)

    whole = losses(tmp_path / "one", str(one.outputs["model"]))
    assert losses(tmp_path / "two", str(two.outputs["model"])) == pytest.approx(whole, abs=2e-3)
    assert len(whole) == (6 if "accumulate" in train else 12)
    assert two.outputs["eval_loss"] == pytest.approx(one.outputs["eval_loss"], abs=2e-3)
    measured = [e["done"] for e in events(tmp_path / "two", "metrics") if "eval_loss" in e]
    assert measured == ([5, 10, 12] if "eval_every" in train else [len(whole)])
    # the leader alone reports: every step once, tokens of both
    told = [e for e in events(tmp_path / "two", "metrics") if "loss" in e]
    assert len({e["done"] for e in told}) == len(told)
    alone = [e for e in events(tmp_path / "one", "metrics") if "loss" in e]
    assert told[-1]["tokens_seen"] == alone[-1]["tokens_seen"]
    assert not ranks_alive(tmp_path)
    # the memory of both, for the engine to admit the next run by
    assert one.peak_memory_bytes is None
    assert two.peak_memory_bytes is not None
    assert two.peak_memory_bytes >= told[-1]["peak_memory_bytes"] > 600 << 20
    made = Registry.open(StatePaths(tmp_path / "two")).manifest(str(two.outputs["model"]))
    assert made.run["processes"] == "2"
    assert made.run["strategy"] == asked.get("strategy", "ddp")
    assert "in each of 2 processes" in made.card


@pytest.mark.nightly
def test_a_stop_saves_and_the_next_attempt_goes_on(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    from recipes.finetune.run import run

    wanted = recipe(tiny_model, tiny_chat, batch=2, epochs=4, save_every=1000, dropout=0.1)
    wanted["train"]["distributed"] = {"processes": 2}
    whole = run_step(tmp_path / "whole", "finetune", wanted)
    ctx = make_context(tmp_path / "stopped", "finetune", wanted)
    log = ctx.paths.job_events("job1")

    class Stop:
        def is_set(self) -> bool:
            return log.exists() and '"loss"' in log.read_text()

    ctx._stop = Stop()  # type: ignore[assignment]
    with pytest.raises(Stopped):
        run(ctx)
    (saved,) = [e["done"] for e in events(tmp_path / "stopped", "checkpoint")]
    assert 0 < saved < 48
    resumed = run_step(tmp_path / "stopped", "finetune", wanted)
    assert f"going on from step {saved}" in [
        e["text"] for e in events(tmp_path / "stopped", "note")
    ]
    assert weights(tmp_path / "stopped", str(resumed.outputs["model"])) == weights(
        tmp_path / "whole", str(whole.outputs["model"])
    )


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_full_disk_loses_no_run(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, strategy: str
) -> None:
    wanted = recipe(tiny_model, tiny_chat, method="full", lr=1e-3, batch=2, save_every=4)
    wanted["train"]["distributed"] = {"processes": 2, "strategy": strategy}
    if strategy == "ddp":
        # the weights (5.8 MB) fit, the optimizer's state (11.5 MB) does not
        with file_limit(8_000_000):
            run_step(tmp_path, "finetune", wanted)
        notes = [e for e in events(tmp_path, "note") if e["level"] == "warning"]
        assert sum("could not be written" in e["text"] for e in notes) == 3
        return
    # what is spread is gathered while it is written: the run stops, with the reason
    with file_limit(8_000_000), pytest.raises(OutOfSpace, match="of the spread model"):
        run_step(tmp_path, "finetune", wanted)
    run_step(tmp_path, "finetune", wanted)
    assert (
        len(losses(tmp_path, Registry.open(StatePaths(tmp_path)).resolve("tests.train").id)) == 12
    )


@pytest.mark.nightly
def test_a_killed_rank_takes_the_worker_and_the_others_with_it(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path
) -> None:
    wanted = recipe(tiny_model, tiny_chat, batch=2, epochs=500)
    wanted["train"]["distributed"] = {"processes": 2}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(wanted)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = StatePaths(tmp_path).job_events("job1")
    try:
        deadline = time.monotonic() + 240
        while not (log.exists() and '"loss"' in log.read_text()):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        os.kill(ranks_alive(tmp_path)[-1], signal.SIGKILL)
        # the worker ends as a killed worker does: the engine queues the job again
        assert child.wait(timeout=240) == -signal.SIGKILL
        deadline = time.monotonic() + 60
        while ranks_alive(tmp_path):
            assert time.monotonic() < deadline, ranks_alive(tmp_path)
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()


def problems(tmp_path: Path, model: Path, rows: Path, **more: Any) -> list[str]:
    values = {"base": str(model), "data": {"train": str(rows)}, "train": {}, **more}
    spec = FinetuneSpec.model_validate(values)
    found = check(spec, CheckContext(StatePaths(tmp_path / "home"), tmp_path, "train"))
    return [f"{'.'.join(map(str, p.path))}: {p.what}" for p in found]


TWO = {"processes": 2}
FSDP = {"processes": 2, "strategy": "fsdp"}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"distributed": {"strategy": "fsdp"}}, "strategy: 'fsdp' spreads a model over processes"),
        ({"distributed": {**TWO, "zero_stage": 3}}, "zero_stage: zero_stage belongs to DeepSpeed"),
        ({"distributed": {"processes": 64}}, "processes: 64 processes need as many CPU cores"),
        ({"method": "dpo", "distributed": TWO}, "processes: method 'dpo' trains in one process"),
        ({"batch": "auto", "distributed": TWO}, "batch: batch = 'auto' is solved for one process"),
        ({"method": "qlora", "distributed": FSDP}, "method: train.method does not go together"),
        ({"method": "dora", "distributed": FSDP}, "method: train.method does not go together"),
        ({"optimizer": "adamw-8bit", "distributed": FSDP}, "optimizer: train.optimizer does not"),
        ({"compile": True, "distributed": FSDP}, "compile: train.compile does not go together"),
    ],
)
def test_what_can_not_be_is_refused(
    tmp_path: Path,
    tiny_model: Path,
    tiny_chat: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(fit, "usable_cores", lambda: 4)
    found = problems(tmp_path, tiny_model, tiny_chat, train=train)
    assert any(message in text for text in found), found


def test_deepspeed_that_is_not_installed_is_refused(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "find_spec", lambda _: None)
    monkeypatch.setattr(fit, "usable_cores", lambda: 4)
    train = {"distributed": {"processes": 2, "strategy": "deepspeed"}}
    (found,) = problems(tmp_path, tiny_model, tiny_chat, train=train)
    assert "DeepSpeed is not installed" in found


def test_there_must_be_a_gpu_for_each_process(
    tmp_path: Path, tiny_model: Path, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = tmp_path / "gpus.json"
    one = {"total": 80 << 30, "free": 80 << 30}
    cards.write_text(json.dumps([{"uuid": "GPU-a", **one}, {"uuid": "GPU-b", **one}]))
    from engine.devices import probe

    monkeypatch.setenv(probe.ENV_FAKE, str(cards))
    assert problems(tmp_path, tiny_model, tiny_chat, train={"distributed": TWO}) == []
    three = {"train": {"distributed": {"processes": 3}}}
    (found,) = problems(tmp_path, tiny_model, tiny_chat, **three)
    assert "3 processes need 3 GPUs, this machine has 2" in found
    (found,) = problems(
        tmp_path,
        tiny_model,
        tiny_chat,
        train={"distributed": TWO},
        resources={"device": "GPU-a"},
    )
    assert "2 processes can't share the GPU GPU-a" in found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed"])
def test_accelerate_takes_the_configuration(tmp_path: Path, strategy: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    ctx = make_context(
        tmp_path,
        "finetune",
        {
            "base": "x",
            "data": {"train": "y"},
            "train": {"distributed": {"processes": 3, "strategy": strategy}},
        },
    )
    spec = ctx.params
    assert isinstance(spec, FinetuneSpec)
    ctx.threads = 7
    folder = distributed.prepare_folder(ctx, spec)
    # unknown keys are errors of its own loader
    loaded = load_config_from_file(str(folder / "accelerate.json"))
    assert loaded.num_processes == 3
    assert str(loaded.distributed_type.value) == {"ddp": "MULTI_GPU"}.get(
        strategy, strategy.upper()
    )
    words = distributed.command(spec, folder)
    parsed = launch_command_parser().parse_args(words[words.index("--config_file") :])
    assert parsed.training_script == "recipes.finetune.ranks"
    assert parsed.training_script_args == [str(folder / "spec.json")]
    assert distributed.environment(ctx, spec)["OMP_NUM_THREADS"] == "2"
    assert (folder / "spec.json").stat().st_mode & 0o777 == 0o600


def told(folder: Path, rank: int, spec: FinetuneSpec, error: Exception) -> None:
    (folder / f"failure-{rank}.json").write_text(json.dumps(describe(spec, error)))


def test_the_reason_is_the_failed_ranks_own(tmp_path: Path) -> None:
    spec = FinetuneSpec.model_validate({"base": "x", "data": {"train": "y"}})
    ctx = make_context(tmp_path / "home", "finetune", {"base": "x", "data": {"train": "y"}})

    def failure() -> ModelOpsError:
        return distributed.failure(ctx, tmp_path, 1)

    assert failure().what == "the processes could not be started"
    told(tmp_path, 0, spec, RuntimeError("Read error [127.0.0.1]: Connection reset by peer"))
    told(tmp_path, 1, spec, RuntimeError("index out of range"))
    assert isinstance(failure(), StepFailed)
    assert failure().why == "index out of range"
    told(tmp_path, 2, spec, BadInput("no such row", why="line 7", hint="look there"))
    found = failure()
    assert isinstance(found, BadInput)
    assert (found.what, found.why, found.hint) == ("no such row", "line 7", "look there")
    for file in tmp_path.glob("failure-*"):
        file.unlink()
    told(tmp_path, 0, spec, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert isinstance(failure(), DoesNotFit)


def test_a_frozen_job_rests_between_steps() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        group = Group(0, 1, launcher=launcher.pid)
        group.wait_while_frozen()
        launcher.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, launcher.pid, os.WSTOPPED | os.WNOWAIT)
        thaw = subprocess.Popen(
            [sys.executable, "-c", f"import os,time; time.sleep(1); os.kill({launcher.pid}, 18)"]
        )
        began = time.monotonic()
        group.wait_while_frozen()
        # it rested until somebody let the launcher go on, at the earliest after that second
        assert time.monotonic() - began > 0.9
        thaw.wait()
    finally:
        launcher.kill()
        launcher.wait()


def test_one_process_is_a_group_of_its_own() -> None:
    ALONE.barrier()
    ALONE.wait_while_frozen()
    assert ALONE.gather([1.0, 2.0]) == [[1.0, 2.0]]
    assert ALONE.leads
    assert not ALONE.shards


@pytest.mark.parametrize(
    ("asked", "divided"),
    [
        ({"strategy": "ddp"}, set()),
        ({"strategy": "deepspeed", "zero_stage": 1}, {"optimizer"}),
        ({"strategy": "deepspeed"}, {"optimizer", "gradients"}),
        (
            {"strategy": "deepspeed", "zero_stage": 3},
            {"optimizer", "gradients", "weights", "adapters"},
        ),
        ({"strategy": "fsdp"}, {"optimizer", "gradients", "weights", "adapters"}),
    ],
)
def test_the_estimate_is_of_one_gpu_or_of_all_processes(
    tmp_path: Path, asked: dict[str, Any], divided: set[str]
) -> None:
    values = {
        "base": "smollm2-135m-instruct",
        "data": {"train": "house/train"},
        "train": {"method": "full"},
    }
    context = EstimateContext(StatePaths(tmp_path), "cpu")
    one = together.estimate(FinetuneSpec.model_validate(values), context)
    values["train"] = {"method": "full", "distributed": {"processes": 4, **asked}}
    spec = FinetuneSpec.model_validate(values)
    all_four = together.estimate(spec, context)
    for part, size in one.parts.items():
        times = 1 if part in divided else 4
        assert all_four.parts[part] == pytest.approx(size * times, abs=4)
    assert all_four.memory_bytes == pytest.approx(
        one.memory_bytes * sum(all_four.parts.values()) / sum(one.parts.values()), rel=1e-6
    )
    assert "all 4 processes together" in all_four.notes[-1]
    each = together.spread(spec, one.parts, "cuda")
    assert each["weights"] == pytest.approx(
        one.parts["weights"] / (4 if "weights" in divided else 1), abs=1
    )
