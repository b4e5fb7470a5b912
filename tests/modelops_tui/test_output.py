"""The one writer of stdout, seen from a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    explain = f"{sys.executable} -m modelops_tui recipe explain quickstart"
    command = f"{explain} | (read -r line; echo $line); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "MODELOPS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("quickstart")
