"""Real processes, real kills: an engine on a state directory of its own, and an oracle over it.

The oracle trusts nothing the engine says alone: workers write a ledger (fsynced lines) and hold an
exclusive lock of the test's own while they live.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.api.jobs import Jobs
from engine.daemon import client
from engine.paths import StatePaths
from engine.supervise.identity import MARKER_ENV
from engine.types.jobs import ENDED_STATES, JobState, JobView
from tests.support.plans import Step, plan

#: Seconds to wait for what must come: only a failure ever waits so long, so that a machine that is
#: busy with something else fails no test.
PATIENCE = 180.0

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests" / "support" / "plugin"
_numbers = itertools.count()


def seed_of(request_name: str) -> int:
    """The seed of a test: ``MODELOPS_SEED``, or a fresh one; it is printed with a failure."""
    seed = int(os.environ.get("MODELOPS_SEED") or random.SystemRandom().randrange(2**31))
    sys.stdout.write(f"{request_name}: MODELOPS_SEED={seed}\n")
    return seed


@dataclass
class Harness:
    """One state directory under attack."""

    root: Path
    seed: int = 0
    extra_env: dict[str, str] = field(default_factory=dict)
    engine: subprocess.Popen[bytes] | None = None
    accepted: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    figures: dict[str, str] = field(default_factory=dict)
    """What a test measured, for the table of ``make faults``."""

    def __post_init__(self) -> None:
        self.paths = StatePaths(self.root / "state").ensure()
        self.ledger = self.root / "ledger"
        self.ledger.touch()
        self.jobs = Jobs(self.paths)
        self.random = random.Random(self.seed)
        config = "[engine]\ngrace_s = 3.0\nmax_interruptions = 100000\n"
        self.paths.config.write_text(config)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "MODELOPS_HOME": str(self.paths.root),
            # the sources beside these tests, whatever copy the environment has installed
            "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGIN}",
            "OMP_NUM_THREADS": "1",
            "MODELOPS_SPACE_FLOOR_MIB": "1",
            **self.extra_env,
        }

    # -- engine -----------------------------------------------------------------------------------

    def spawn_engine(self) -> subprocess.Popen[bytes]:
        with open(self.paths.engine_log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.daemon"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.root,
            )

    def start_engine(self, *, wait: bool = True) -> None:
        self.engine = self.spawn_engine()
        deadline = time.monotonic() + PATIENCE
        while wait and client.hello(self.paths) is None:
            if self.engine.poll() is not None or time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def keep_engine(self) -> None:
        """Restart the engine when it is dead (as the CLI and the screens do)."""
        if self.engine is None or self.engine.poll() is not None:
            self.start_engine(wait=False)

    def answer(self) -> dict[str, Any]:
        """What the engine that runs says of itself; a busy one may miss a question."""
        said: list[dict[str, Any]] = []

        def heard() -> bool:
            found = client.hello(self.paths)
            said.extend([found] if found is not None else [])
            return bool(said)

        self.wait_for(heard)
        return said[0]

    def kill_engine(self) -> None:
        if self.engine is not None and self.engine.poll() is None:
            self.engine.send_signal(signal.SIGKILL)
            self.engine.wait()
            self.kills["engine"] += 1

    def stop_engine(self) -> None:
        if self.engine is not None:
            if self.engine.poll() is None:
                self.engine.send_signal(signal.SIGTERM)
                try:
                    self.engine.wait(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    self.engine.kill()
                    self.engine.wait()
            self.engine = None

    @contextmanager
    def held(self) -> Iterator[str]:
        """A value for ``hold``: runs with it can't end before the block does."""
        gate = self.root / f"hold-{next(_numbers)}"
        gate.touch()
        try:
            yield str(gate)
        finally:
            gate.unlink()

    # -- jobs -------------------------------------------------------------------------------------

    def submit(self, **params: Any) -> str:
        return self.submit_steps(Step("probe", params={"ledger": str(self.ledger), **params}))

    def submit_steps(self, *steps: Step, priority: int = 0) -> str:
        view = self.jobs.submit(plan(*steps), priority)
        self.accepted.append(view.id)
        return view.id

    def spawn_client(self, count: int, params: dict[str, Any]) -> subprocess.Popen[str]:
        """A separate process that submits and prints ``submitted <id>`` after each acceptance."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.faults.submitter",
                str(count),
                json.dumps({"ledger": str(self.ledger), **params}),
            ],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def collect_client(self, process: subprocess.Popen[str]) -> None:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGKILL), err
        self.accepted += [
            line.split()[1]
            for line in out.splitlines()
            if line.startswith("submitted ") and line.endswith(".")
        ]

    def wait_ended(self, timeout: float = PATIENCE, *, keep_engine: bool = True) -> list[JobView]:
        """Every accepted job's view, once all have ended."""
        deadline = time.monotonic() + timeout
        while True:
            views = [self.jobs.get(job_id) for job_id in self.accepted]
            open_jobs = [view for view in views if view.state not in ENDED_STATES]
            if not open_jobs:
                return views
            if time.monotonic() > deadline:
                left = [(view.id, str(view.state), view.reason) for view in open_jobs]
                raise AssertionError(f"not ended: {left}\n{self.log_tail()}")
            if keep_engine:
                self.keep_engine()
            time.sleep(0.05)

    def wait_for(self, condition: Any, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout:.0f} s in vain\n{self.log_tail()}")
            time.sleep(0.01)

    def wait_state(self, job_id: str, state: JobState, timeout: float = PATIENCE) -> None:
        self.wait_for(lambda: self.jobs.get(job_id).state is state, timeout)

    # -- processes --------------------------------------------------------------------------------

    def marked(self) -> dict[str, list[int]]:
        """Living processes of attempts by role (shim, worker, other), found in /proc."""
        prefix = f"{MARKER_ENV}={self.paths.root}|".encode()
        found: dict[str, list[int]] = {"shim": [], "worker": [], "other": []}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with suppress(OSError):
                environ = Path(f"/proc/{name}/environ").read_bytes()
                if not any(item.startswith(prefix) for item in environ.split(b"\0")):
                    continue
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                role = (
                    "shim"
                    if b"shim.py" in command
                    else "worker"
                    if b"engine.worker" in command
                    else "other"
                )
                found[role].append(int(name))
        return found

    def kill_random(self, role: str) -> bool:
        pids = self.marked()[role]
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.random.choice(pids), signal.SIGKILL)
            self.kills[role] += 1
        return True

    def log_tail(self) -> str:
        with suppress(OSError):
            return "\n".join(self.paths.engine_log.read_text().splitlines()[-25:])
        return ""

    # -- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """End what we started, whatever state it is in."""
        self.stop_engine()
        for pids in self.marked().values():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def ledger_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger.read_text().splitlines() if line]
