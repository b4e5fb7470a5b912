"""The SDK: its documented examples run, its async streams end, and it costs `--help` nothing."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from modelops_tui import Workstation
from modelops_tui.sdk.workstation import in_thread

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["jobs"] == ()
    assert "serve" in names["kinds"]


def test_importing_the_package_does_not_import_the_sdk() -> None:
    code = "import sys, modelops_tui; print('modelops_tui.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_an_iterator_in_a_thread_gives_its_values_and_its_error() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise BadInput("no more")

    stream = in_thread(make)
    assert [await anext(stream), await anext(stream)] == [1, 2]
    with pytest.raises(BadInput, match="no more"):
        await anext(stream)


async def test_leaving_early_ends_the_thread() -> None:
    ended = threading.Event()

    def make() -> Iterator[int]:
        try:
            for n in range(10_000):
                time.sleep(0.005)
                yield n
        finally:
            ended.set()

    stream = in_thread(make)
    assert await anext(stream) == 0
    await stream.aclose()
    assert await asyncio.to_thread(ended.wait, 5)


def test_a_workstation_closes_twice(tmp_path: Path) -> None:
    station = Workstation(tmp_path)
    assert station.serving.list() == ()
    station.close()
    station.close()
