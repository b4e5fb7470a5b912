"""What is done beside a real user manager: install the engine, kill it, stop it, start it again.

``python -m tests.faults.under_systemd`` in the namespaces of ``systemd_user.sh``; prints one JSON
object of what was seen, which ``test_systemd.py`` judges.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.api.jobs import Jobs
from engine.daemon import client, systemd
from engine.paths import StatePaths
from engine.telemetry.doctor import examine
from tests.support.plans import Step, plan

PATIENCE = 120.0


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(StatePaths.default().engine_log.read_text()[-2000:])
        time.sleep(0.05)
    return found


def program(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "modelops_tui", *arguments], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments}: {done.stderr}")
    return done.stdout + done.stderr


def unit(name: str) -> str:
    """A property of the unit as systemd tells it."""
    command = ["systemctl", "--user", "show", "--value", f"--property={name}", systemd.UNIT]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def service_check() -> dict[str, str]:
    found = next(check for check in examine(StatePaths.default()) if check.name == "service")
    return {"status": found.status, "detail": found.detail, "hint": found.hint}


def held_job(jobs: Jobs, gate: Path) -> str:
    gate.touch()
    return jobs.submit(plan(Step("probe", params={"steps": 3, "hold": str(gate)}))).id


def worker_of(paths: StatePaths, job: str) -> int | None:
    file = paths.attempt_dir(job, 1) / "begun.json"
    return int(json.loads(file.read_text())["pid"]) if file.exists() else None


def engine_pid(paths: StatePaths) -> int | None:
    answer = client.hello(paths)
    return int(answer["pid"]) if answer is not None else None


def main() -> None:
    paths = StatePaths.default().ensure()
    jobs = Jobs(paths)
    gate = paths.root / "gate"
    seen: dict[str, Any] = {"doctor without linger": service_check()}
    Path("/var/lib/systemd/linger/root").touch()
    seen["doctor with linger"] = service_check()

    seen["install"] = program("engine", "install")
    first = wait_for(lambda: engine_pid(paths))
    seen["engine is the unit"] = first == int(unit("MainPID"))
    seen["enabled"] = unit("UnitFileState")
    seen["doctor installed"] = service_check()

    # killed: systemd starts the next one, which adopts the run
    job = held_job(jobs, gate)
    shim = wait_for(lambda: worker_of(paths, job))
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: (pid := engine_pid(paths)) != first and pid)
    seen["restarted by systemd"] = second == int(unit("MainPID")) and int(unit("NRestarts")) == 1
    seen["run went on after the kill"] = Path(f"/proc/{shim}").exists()
    gate.unlink()
    wait_for(lambda: jobs.get(job).ended)
    seen["adopted"] = [attempt.state for attempt in jobs.attempts(job)]

    # stopped: it stays down, and its run is not taken along
    job = held_job(jobs, gate)
    shim = wait_for(lambda: worker_of(paths, job))
    program("engine", "stop")
    wait_for(lambda: unit("ActiveState") != "active")
    seen["stopped"] = unit("ActiveState")
    seen["run went on after the stop"] = Path(f"/proc/{shim}").exists()

    # started again by us: through systemd
    program("engine", "start")
    seen["started through systemd"] = wait_for(lambda: engine_pid(paths)) == int(unit("MainPID"))
    gate.unlink()
    wait_for(lambda: jobs.get(job).ended)
    seen["finished"] = [attempt.state for attempt in jobs.attempts(job)]
    program("engine", "stop")
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
