"""Several processes for one run: the worker's side of ``accelerate launch``.

The worker writes accelerate's configuration into the step's folder, starts the launcher, carries a
stop to the ranks, and takes over their result or their failure. Nothing of it imports torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import errors
from engine.errors import ModelOpsError, StepFailed
from engine.worker.context import StepResult
from recipes.finetune.ranks import RESULT, STOP

if TYPE_CHECKING:
    from engine.worker.context import StepContext
    from recipes.finetune.schema import FinetuneSpec

_POLL_S = 0.1
#: How a rank ends whose peers, or whose agent, ended it: not the cause of anything.
_BY_THE_AGENT = -signal.SIGTERM


def train_together(ctx: StepContext, spec: FinetuneSpec) -> StepResult:
    """Run the step in ``train.distributed.processes`` processes.

    Raises:
        Stopped: a stop was asked for; the leader has saved a checkpoint.
        ModelOpsError: what a rank has failed with.
        StepFailed: the launcher failed, or a rank with an error that is not ours.
    """
    cards = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if ctx.device != "cpu" and len(cards) < spec.train.distributed.processes:
        raise StepFailed(
            f"{spec.train.distributed.processes} processes need as many GPUs",
            why=f"this job was given {len(cards)}",
        )
    folder = prepare_folder(ctx, spec)
    ctx.phase("starting the processes")
    child = subprocess.Popen(command(spec, folder), env=environment(ctx, spec), cwd=ctx.work_dir)
    try:
        while child.poll() is None:
            if ctx.should_stop and not (folder / STOP).exists():
                (folder / STOP).touch()
            time.sleep(_POLL_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    result = _read(folder / RESULT)
    if child.returncode == 0 and result is not None:
        if result.get("stopped"):
            ctx.raise_stopped()
        return StepResult(result["outputs"], tuple(result["report"]), result["peak_memory_bytes"])
    raise failure(ctx, folder, child.returncode)


def prepare_folder(ctx: StepContext, spec: FinetuneSpec) -> Path:
    """An empty folder in the step's own, with what the ranks and accelerate read."""
    folder = ctx.work_dir / "launch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = {
        "job_id": ctx.job_id,
        "job_name": ctx.job_name,
        "step": ctx.step,
        "attempt": ctx.attempt,
        "kind": ctx.kind,
        "paths": str(ctx.paths.root),
        "recipe_sha256": ctx.recipe_sha256,
        "recipe_dir": str(ctx.recipe_dir) if ctx.recipe_dir else None,
        "threads": threads_each(ctx, spec),
        "device": ctx.device,
        "step_key": ctx.step_key,
        "params": spec.model_dump(mode="json"),
    }
    # 0600: parameters may hold what ${env:NAME} was replaced with
    descriptor = os.open(folder / "spec.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(values, file)
    # JSON is YAML, too: accelerate reads both
    configuration = launch_configuration(spec, ctx.device)
    (folder / "accelerate.json").write_text(json.dumps(configuration, indent=1) + "\n")
    return folder


def threads_each(ctx: StepContext, spec: FinetuneSpec) -> int:
    """CPU threads of one rank."""
    return max(ctx.threads // spec.train.distributed.processes, 1)


def launch_configuration(spec: FinetuneSpec, device: str) -> dict[str, Any]:
    """The file that ``accelerate launch --config_file`` reads.

    The recipe's own precision is kept: our loss opens the autocast itself, accelerate must not.
    """
    asked = spec.train.distributed
    found: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed": "DEEPSPEED"}[
            asked.strategy
        ],
        "mixed_precision": "no",
        "use_cpu": device == "cpu",
        "num_processes": asked.processes,
        "num_machines": 1,
        "machine_rank": 0,
        "main_process_port": 0,
        "debug": False,
    }
    if asked.strategy == "fsdp":
        found["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": True,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_offload_params": False,
            "fsdp_activation_checkpointing": False,
        }
    elif asked.strategy == "deepspeed":
        found["deepspeed_config"] = {
            "zero_stage": asked.zero_stage,
            "gradient_accumulation_steps": spec.train.accumulate,
            "gradient_clipping": spec.train.clip,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero3_init_flag": False,
            "zero3_save_16bit_model": asked.zero_stage == 3,
        }
    return found


def command(spec: FinetuneSpec, folder: Path) -> list[str]:
    """What is started: accelerate's command in our own process, see ``launcher``."""
    return [
        sys.executable,
        "-P",
        "-m",
        "recipes.finetune.launcher",
        str(folder / "ended.json"),
        str(os.getpid()),
        "--config_file",
        str(folder / "accelerate.json"),
        "--module",
        "recipes.finetune.ranks",
        str(folder / "spec.json"),
    ]


def environment(ctx: StepContext, spec: FinetuneSpec) -> dict[str, str]:
    """The worker's environment, with the cores divided among the ranks."""
    found = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads_each(ctx, spec)),
        "PYTHONSAFEPATH": "1",
        # ranks talk on this machine only
        "GLOO_SOCKET_IFNAME": "lo",
    }
    # ACCELERATE_USE_CPU stays unset: with it, accelerate would train by DDP without a word where
    # the recipe says DeepSpeed
    found.pop("ACCELERATE_USE_CPU", None)
    if ctx.device == "cpu":
        found["DS_ACCELERATOR"] = "cpu"
    return found


def failure(ctx: StepContext, folder: Path, status: int) -> ModelOpsError:
    """Why the ranks ended: the first rank's own reason, not what its end did to the others.

    A rank that was killed (by the kernel for its memory, say) takes the worker with it: the engine
    then does what it does with every killed worker, and the next attempt resumes.
    """
    codes = (_read(folder / "ended.json") or {}).get("exit_codes", {})
    killed = {rank: -code for rank, code in codes.items() if code < 0 and code != _BY_THE_AGENT}
    told = [found for file in folder.glob("failure-*.json") if (found := _read(file))]
    # what a rank says of another's end comes last
    told.sort(key=lambda found: (not found["kind"], _of_a_peer(found["why"]), found["t"]))
    if told and told[0]["kind"]:
        kind = getattr(errors, told[0]["kind"], StepFailed)
        own: ModelOpsError = kind(told[0]["what"], why=told[0]["why"], hint=told[0]["hint"])
        return own
    if killed:
        rank, number = next(iter(killed.items()))
        ctx.note(f"process {rank} was ended by signal {number}", level="warning")
        os.kill(os.getpid(), number)
    hint = f"`modelops-tui jobs log {ctx.job_id}` shows the tracebacks of all processes"
    if told:
        return StepFailed(
            f"a process of the run failed with {told[0]['what']}", why=told[0]["why"], hint=hint
        )
    return StepFailed("the processes could not be started", why=f"exit status {status}", hint=hint)


def _of_a_peer(why: str) -> bool:
    return "by peer" in why or "remote" in why


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
