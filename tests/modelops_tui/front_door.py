"""The command line as real processes on a state directory of its own, with a real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.harness import PATIENCE, PLUGIN, ROOT


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class FrontDoor:
    """Runs ``modelops-tui`` the way a person does."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "MODELOPS_HOME": str(self.folder / "state"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGIN}",
            "OMP_NUM_THREADS": "1",
            "MODELOPS_SPACE_FLOOR_MIB": "1",
        }

    def __call__(self, *args: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modelops_tui", *args],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.env,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def begin(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "modelops_tui", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            # tests started in the background of a shell inherit an ignored SIGINT; a person's
            # terminal gives the default
            preexec_fn=_heed_ctrl_c,
        )

    def recipe(self, name: str = "r.toml", **keys: Any) -> str:
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        (self.folder / name).write_text("\n".join(['kind = "probe"', *lines]) + "\n")
        return name

    def hold(self) -> Path:
        """A file for ``hold``: the run waits before its last step while it exists."""
        gate = self.folder / "hold"
        gate.touch()
        return gate

    def job(self, job: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self("jobs", "show", job, "--json").stdout)
        return value

    def wait_for(self, job: str, *states: str, seconds: float = PATIENCE) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            record = self.job(job)
            if record["state"] in states:
                return record
            time.sleep(0.2)
        raise AssertionError(f"{job} is {record['state']}, not {states}")
