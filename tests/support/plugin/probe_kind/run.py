"""What the probe does in the worker."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from engine.errors import StepFailed
from engine.types.system import Estimate, EstimateContext
from engine.worker import checkpoints
from engine.worker.context import StepContext, StepResult
from probe_kind import ProbeSpec


def estimate(spec: ProbeSpec, context: EstimateContext) -> Estimate:
    return Estimate(memory_bytes=max(1, spec.hog_mib) << 20)


def write_ledger(path: str, **record: object) -> None:
    if not path:
        return
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (json.dumps({"t": time.monotonic(), **record}) + "\n").encode())
    os.fsync(fd)
    os.close(fd)


def witness(path: str, ledger: str, **record: object) -> None:
    """A lock of the test's own, held until death: workers that overlap can't both have it."""
    fd = os.open(f"{path}.witness", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        write_ledger(ledger, what="overlap", **record)


def once(ctx: StepContext, name: str) -> bool:
    try:
        os.close(os.open(ctx.work_dir / f"once-{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def save(ctx: StepContext, done: int, total: float) -> None:
    folder = ctx.checkpoints_dir / f"checkpoint-{done}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"done": done, "total": total}))
    checkpoints.mark_complete(folder, ctx.step_key)
    checkpoints.prune(ctx.checkpoints_dir, keep=2)
    ctx.event("checkpoint", done=done, path=str(folder))


def misbehave(ctx: StepContext, spec: ProbeSpec, done: int) -> None:
    if done == spec.fail_at:
        raise StepFailed("the probe was told to fail", why=f"at step {done}", hint="don't")
    if done == spec.crash_at and (spec.always_crash or once(ctx, "crash")):
        os.kill(os.getpid(), signal.SIGKILL)
    if done == spec.signal_at:
        os.kill(os.getpid(), signal.SIGSEGV)
    if done == spec.exit_at:
        os._exit(3)


def wait_while_held(ctx: StepContext, spec: ProbeSpec) -> None:
    while spec.hold and os.path.exists(spec.hold) and not ctx.should_stop:
        time.sleep(0.01)


def run(ctx: StepContext) -> StepResult:
    spec = ctx.params
    assert isinstance(spec, ProbeSpec)
    identity = {
        "job": ctx.job_id,
        "step": ctx.step,
        "attempt": ctx.attempt,
        "pid": os.getpid(),
        "lane": os.environ.get("CUDA_VISIBLE_DEVICES") or "cpu",
    }
    for module in filter(None, spec.imports.split(",")):
        importlib.import_module(module)
    if spec.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ballast = bytearray(spec.hog_mib << 20)
    if spec.orphan:
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            close_fds=True,
            start_new_session=True,
        )
    start = checkpoints.latest_complete(ctx.checkpoints_dir, ctx.step_key)
    done, total = 0, 0.0
    if start is not None:
        state = json.loads((start.path / "state.json").read_text())
        done, total = state["done"], state["total"]
    resumed = done
    write_ledger(spec.ledger, what="begin", done=done, **identity)
    if spec.ledger:
        witness(f"{spec.ledger}.{identity['lane']}", spec.ledger, **identity)
    if spec.loud_kib:
        for _ in range(spec.loud_kib):
            sys.stdout.write("x" * 1023 + "\n")
    while done < spec.steps:
        if done == spec.steps - 1:
            wait_while_held(ctx, spec)
        if ctx.should_stop and not spec.ignore_term:
            if spec.checkpoint_every:
                save(ctx, done, total)
            write_ledger(spec.ledger, what="stopped", done=done, **identity)
            ctx.raise_stopped()
        time.sleep(spec.step_s)
        misbehave(ctx, spec, done)
        done, total = done + 1, total + done
        write_ledger(spec.ledger, what="step", done=done, **identity)
        ctx.progress(done, spec.steps, "steps", eta_s=(spec.steps - done) * spec.step_s)
        if spec.checkpoint_every and done % spec.checkpoint_every == 0 and done < spec.steps:
            save(ctx, done, total)
    write_ledger(spec.ledger, what="commit", done=done, total=total, **identity)
    del ballast
    return StepResult(
        {"total": total, "tag": spec.tag, "secret": spec.secret, "resumed_from": float(resumed)},
        peak_memory_bytes=spec.tells_mib << 20 if spec.tells_mib else None,
    )
