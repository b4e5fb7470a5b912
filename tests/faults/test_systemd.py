"""``engine install`` under a real ``systemd --user``: killed, stopped and started again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE, PLUGIN, ROOT

SCRIPT = Path(__file__).with_name("systemd_user.sh")
#: What ``systemd_user.sh`` leaves with where a user manager can't be had.
CANT = 77


def can_try() -> bool:
    return (
        os.geteuid() == 0
        and Path("/lib/systemd/systemd").exists()
        and None not in (shutil.which("unshare"), shutil.which("systemctl"))
    )


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_try(), reason="a user manager of our own needs systemd and root")
def test_the_engine_as_a_user_service(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path), sys.executable, "-m", "tests.faults.under_systemd"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGIN}",
            "MODELOPS_SPACE_FLOOR_MIB": "1",
        },
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    if done.returncode == CANT:
        pytest.skip("namespaces or control groups are not to be had here")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    without, possible, installed = (
        seen.pop(f"doctor {when}") for when in ("without linger", "with linger", "installed")
    )
    assert "linger is off" in without["detail"]
    assert "enable-linger" in without["hint"]
    assert "possible here" in possible["detail"]
    assert installed["status"] == "ok"
    assert "installed" in installed["detail"]
    assert "installed and enabled" in seen.pop("install")
    assert seen == {
        "engine is the unit": True,
        "enabled": "enabled",
        "restarted by systemd": True,
        "run went on after the kill": True,
        "adopted": ["succeeded"],
        "stopped": "inactive",
        "run went on after the stop": True,
        "started through systemd": True,
        "finished": ["succeeded"],
    }
