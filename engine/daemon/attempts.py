"""One attempt as the engine sees it: started under its locks, adopted, signalled, judged.

Whether it lives is the kernel's word alone (its flock). Process ids only carry signals and wake
the engine early.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.daemon.lock import is_locked, try_lock
from engine.daemon.spare import Spare
from engine.errors import ModelOpsError
from engine.paths import StatePaths
from engine.store.run import Outcome
from engine.supervise.crash import crash_point
from engine.supervise.durable import read_json_or_none
from engine.supervise.identity import (
    MARKER_ENV,
    boot_id,
    kill_marked,
    marker,
    open_process,
    start_ticks,
)
from engine.worker.checkpoints import has_complete

SHIM = Path(__file__).resolve().parents[1] / "supervise" / "shim.py"

#: ``Outcome.state`` of an attempt that found the disk full; it is queued until there is room.
NO_SPACE = "no-space"
#: As in ``engine.worker.attempt``, whose imports the engine does without.
EXIT_NO_SPACE = 74

_CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
)


@dataclass
class Running:
    """An attempt this engine watches."""

    job_id: str
    attempt: int
    step: str
    lane: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    pidfd: int | None = None
    adopted: bool = False
    others: tuple[str, ...] = ()
    """Lanes it holds besides ``lane``: a step on several GPUs."""
    asked: set[int] = field(default_factory=set)
    """Signals already sent to the shim by this engine."""
    events_offset: int = 0
    began_at: float = field(default_factory=time.monotonic)

    @property
    def lanes(self) -> tuple[str, ...]:
        """Every lane it holds, its own first."""
        return (self.lane, *self.others)

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def alive(self) -> bool:
        """True while any process of the attempt holds its lock."""
        return is_locked(self.lock)

    def read_lanes(self) -> None:
        """Learn an adopted attempt's further lanes from its ``spec.json``."""
        spec = read_json_or_none(self.folder / "spec.json") or {}
        self.others = tuple(str(name) for name in spec.get("lanes", ())[1:])

    def attach(self) -> None:
        """Find the shim of an adopted attempt, to wait for it and to signal it."""
        if self.pidfd is None:
            begun = read_json_or_none(self.folder / "begun.json")
            if begun is not None:
                self.pidfd = open_process(begun)

    def send(self, number: signal.Signals, *, once: bool = True) -> bool:
        """Signal the shim; False when it is not known yet or gone."""
        if once and number in self.asked:
            return True
        self.attach()
        if self.pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        self.asked.add(number)
        return True

    def release(self) -> None:
        """Reap the shim if it is our child and close its descriptor."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def spawn(
    paths: StatePaths,
    spec: dict[str, Any],
    lane: str,
    lane_locks: Sequence[int],
    environment: Mapping[str, str],
    spare: Spare | None = None,
) -> Running:
    """Start the shim of an attempt; it inherits the attempt's lock and the lanes'.

    The engine's own copies are closed afterwards: from then on the locks live and die with the
    attempt's process tree.

    Args:
        paths: the state directory.
        spec: the contents of ``spec.json``.
        lane: the lane's name.
        lane_locks: descriptors of the locks of ``spec["lanes"]``; none for a sharing job.
        environment: of the worker.
        spare: a pair of processes started in advance, used up by this attempt.

    Raises:
        ModelOpsError: the attempt's lock is held: another engine's attempt has this number.
        OSError: no process, no space.
    """
    job_id, attempt = str(spec["job_id"]), int(spec["attempt"])
    folder = paths.attempt_dir(job_id, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    Path(spec["work_dir"]).mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / "lock")
    if lock is None:
        raise ModelOpsError(f"attempt {attempt} of job {job_id} is already being run")
    try:
        _write_spec(folder, spec)
        crash_point("engine.spec")
        inherited = (lock, *lane_locks)
        environment = {**environment, MARKER_ENV: marker(paths.root, job_id, attempt)}
        process = spare.assign(folder, environment, inherited) if spare is not None else None
        if process is None:
            process = _start_shim(paths, job_id, folder, environment, inherited)
        crash_point("engine.spawned")
    finally:
        os.close(lock)
    running = Running(job_id, attempt, str(spec["step"]), lane, folder, process)
    running.others = tuple(spec["lanes"][1:])
    running.pidfd = os.pidfd_open(process.pid)
    return running


def _start_shim(
    paths: StatePaths,
    job_id: str,
    folder: Path,
    environment: Mapping[str, str],
    inherited: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    with open(paths.job_log(job_id), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=dict(environment),
            pass_fds=inherited,
            start_new_session=True,
        )


def _write_spec(folder: Path, spec: dict[str, Any]) -> None:

    partial = folder / ".spec.json.part"
    partial.write_text(json.dumps(spec, ensure_ascii=False))
    partial.rename(folder / "spec.json")


def clear_strays(paths: StatePaths, running: Running) -> bool:
    """After the shim was lost: KILL what it left behind; True when nothing is left.

    A process that closed its descriptors holds no lock any more; it is found by the marker in its
    environment, or by the session the shim had opened.
    """
    begun = read_json_or_none(running.folder / "begun.json")
    session = None
    if begun is not None and begun.get("boot") == boot_id():
        session = int(begun["pid"])
        if start_ticks(session) not in (None, begun.get("ticks")):
            session = None
    return kill_marked(marker(paths.root, running.job_id, running.attempt), session)


def judge(paths: StatePaths, running: Running) -> Outcome:
    """How a dead attempt ended, from the files it left. Call when its lock is free."""
    begun = read_json_or_none(running.folder / "begun.json")
    ended = read_json_or_none(running.folder / "exit.json")
    result = read_json_or_none(running.folder / "result.json")
    spec = read_json_or_none(running.folder / "spec.json") or {}
    began = float(begun["t"]) if begun else None
    newest = has_complete(paths.step_work(running.job_id, running.step) / "checkpoints")
    progressed = newest > int(spec.get("checkpoint", -1))
    where = f", the checkpoint at {newest} is kept" if newest >= 0 else ""
    common: dict[str, Any] = {"exit": ended, "began": began, "progressed": progressed}
    if result is not None and result.get("attempt") == running.attempt:
        return _reported(result, spec, common, where)
    if begun is None:
        return Outcome("never-began", "it could not be started; trying again", **common)
    if ended is None:
        return Outcome("interrupted", f"interrupted: the run was lost{where}", **common)
    return _unreported(running, ended, common, where)


def _reported(
    result: dict[str, Any], spec: dict[str, Any], common: dict[str, Any], where: str
) -> Outcome:
    if result["state"] == "succeeded":
        # a result of other code than was checked at submit is right, but must not be remembered
        same = result.get("code_version") == spec.get("code_version")
        return Outcome(
            "succeeded",
            outputs=result["outputs"],
            report=result["report"],
            memo_key=spec.get("memo_key") if same else None,
            **common,
        )
    if result["state"] == "stopped":
        return Outcome("stopped", f"stopped on request{where}", **common)
    error = result["error"]
    return Outcome("failed", str(error["what"]), error=error, **common)


def _unreported(
    running: Running, ended: dict[str, Any], common: dict[str, Any], where: str
) -> Outcome:
    """The worker ended without ``result.json``: killed, crashed, or left by itself."""
    if ended.get("stop"):
        text = {
            "grace": "stopped: the grace period was over, so it was killed",
            "kill": "stopped at once",
        }.get(ended["stop"], "stopped")
        return Outcome("interrupted", text + where, **common)
    if ended.get("signal") is not None:
        name = signal.Signals(ended["signal"]).name
        hint = " (as when memory runs out)" if name == "SIGKILL" else ""
        return Outcome(
            "interrupted",
            f"interrupted: the worker was killed by {name}{hint}{where}",
            counts=True,
            **common,
        )
    if ended.get("code") == EXIT_NO_SPACE:
        return Outcome(NO_SPACE, f"interrupted: the disk was full{where}", **common)
    error = {
        "code": "error",
        "what": f"step {running.step!r} ended without a result",
        "why": f"its process left with status {ended.get('code')}",
        "hint": f"`modelops-tui jobs log {running.job_id}` shows its last words",
    }
    return Outcome("failed", error["what"], error=error, **common)


def is_crash(outcome: Outcome) -> bool:
    """True for a signal that the program's own fault raises: repeating it rarely helps."""
    number = (outcome.exit or {}).get("signal")
    return number is not None and signal.Signals(number) in _CRASH_SIGNALS
