"""Room on the disk: what tests write goes with them, and what they only plan is not asked for."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSED = pytest.StashKey[bool]()
"""Whether the body of a test passed (set by ``tests/conftest.py``)."""

_numbers = itertools.count()


@pytest.fixture
def tmp_path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder that is removed after a test that passed: a run of all writes gigabytes.

    Its name never comes again, as pytest's own would: what a test has left behind (an engine that
    is ending) must not meet the next one in the same place.
    """
    name = re.sub(r"\W", "_", request.node.name)[:24]
    folder = tmp_path_factory.mktemp(f"{name}{next(_numbers)}", numbered=False)
    yield folder
    if request.node.stash.get(PASSED, False):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tebibyte is free: no verdict on a recipe goes by the machine that runs the tests."""
    real = shutil.disk_usage

    def roomy(path: str) -> object:
        return real(path)._replace(free=1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", roomy)
