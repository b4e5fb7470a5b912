"""Every example of docs/gateway.md and docs/sdk.md, run as it stands against a real house."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live import House

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[3]


def blocks() -> list[tuple[str, str, str]]:
    """``(page, language, text)`` of every block that names its language."""
    found = []
    for page in ("gateway", "sdk"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        parts = re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL)
        found += [(f"{page}-{number}", *part) for number, part in enumerate(parts, 1)]
    return found


@pytest.mark.parametrize(("page", "language", "text"), blocks(), ids=lambda v: v[:12])
def test_the_example_runs(live: House, tmp_path: Path, page: str, language: str, text: str) -> None:
    command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, text],
        env={
            **os.environ,
            "GATEWAY": live.gateway.url,
            "TOKEN": live.token,
            "MODELOPS_HOME": str(live.station.paths.root),
            "PYTHONPATH": str(ROOT),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, f"{page}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


def test_there_are_examples_in_each_language() -> None:
    kinds = {(page.partition("-")[0], language) for page, language, _ in blocks()}
    assert kinds == {("gateway", "sh"), ("gateway", "python"), ("sdk", "python")}
