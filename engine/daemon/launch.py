"""What an attempt is started with: ``spec.json`` and the worker's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.daemon.settings import EngineSettings, worker_threads
from engine.daemon.steps import Ready, StepRow
from engine.paths import ENV_HOME, StatePaths
from engine.worker.checkpoints import has_complete


def resume_reason(paths: StatePaths, step: StepRow) -> str:
    """``resumed from 12`` for a step that has a complete checkpoint already."""
    newest = has_complete(paths.step_work(step.job_id, step.name) / "checkpoints")
    return f"resumed from {newest}" if newest >= 0 else ""


def attempt_spec(
    paths: StatePaths,
    settings: EngineSettings,
    step: StepRow,
    ready: Ready,
    attempt: int,
    lanes: Sequence[str],
) -> dict[str, Any]:
    """The contents of ``spec.json``."""
    work_dir = paths.step_work(step.job_id, step.name)
    newest = has_complete(work_dir / "checkpoints")
    return {
        "home": str(paths.root),
        "job_id": step.job_id,
        "job_name": step.job_name,
        "step": step.name,
        "attempt": attempt,
        "kind": step.kind,
        "params": ready.params,
        "work_dir": str(work_dir),
        "log": str(paths.job_log(step.job_id)),
        "ballast": str(paths.ballast),
        "recipe_sha256": step.recipe_sha256,
        "recipe_dir": str(Path(step.source_path).parent) if step.source_path else None,
        "threads": worker_threads(step.threads),
        "device": "cuda" if lanes[0].startswith("gpu-") else "cpu",
        "lanes": list(lanes),
        "step_key": ready.key,
        "memo_key": ready.memo_key,
        "code_version": (ready.plan.get("code_versions") or {}).get(step.kind),
        "checkpoint": newest,
        "reason": resume_reason(paths, step),
        "grace_s": settings.grace_s,
        "argv": [
            sys.executable,
            "-P",
            "-m",
            "engine.worker",
            str(paths.attempt_dir(step.job_id, attempt)),
        ],
    }


def worker_environment(
    paths: StatePaths, settings: EngineSettings, threads: int, lanes: Sequence[str]
) -> dict[str, str]:
    """The engine's environment with what must be set before a library is loaded.

    Spinning OpenMP threads beside another busy process cost a factor of 2 to 30 (measured), hence
    the passive wait policy.
    """
    env = dict(os.environ)
    env.setdefault("OMP_WAIT_POLICY", "passive")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env[ENV_HOME] = str(paths.root)
    env["OMP_NUM_THREADS"] = str(threads)
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONFAULTHANDLER"] = "1"
    if not settings.hub:
        env["HF_HUB_OFFLINE"] = "1"
    # by UUID: an index may mean another card after a reboot; empty hides every card
    cards = [lane.removeprefix("gpu-") for lane in lanes if lane.startswith("gpu-")]
    env["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    return env
