"""A disk with room for what a test plans but never writes."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tebibyte is free: no verdict on a recipe goes by the machine that runs the tests."""
    real = shutil.disk_usage

    def roomy(path: str) -> object:
        return real(path)._replace(free=1 << 40)

    monkeypatch.setattr(shutil, "disk_usage", roomy)
