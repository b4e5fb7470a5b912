"""``modelops-tui backends``, as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def modelops(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelops_tui", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MODELOPS_HOME": str(home)},
    )


def test_the_list_needs_nothing_and_makes_nothing(tmp_path: Path) -> None:
    done = modelops(tmp_path / "home", "backends", "list", "--json")
    assert done.returncode == 0, done.stderr
    states = {row["name"]: row["state"] for row in json.loads(done.stdout)}
    assert states["bitsandbytes"] == "main"
    assert states["gptqmodel"] == "not installed"
    assert not (tmp_path / "home").exists()


def test_slips_get_advice_and_a_status(tmp_path: Path) -> None:
    done = modelops(tmp_path, "backends", "remove", "gptqmodl")
    assert done.returncode == 3
    assert "gptqmodel" in done.stderr
    done = modelops(tmp_path, "backends", "remove", "bitsandbytes")
    assert done.returncode == 2
    assert "main environment" in done.stderr
    done = modelops(tmp_path, "backends", "remove", "gptqmodel")
    assert done.returncode == 0
    assert "had no environment" in done.stderr
