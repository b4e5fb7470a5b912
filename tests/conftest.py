"""Fixtures every test may ask for by name, and how Hypothesis searches here."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.room import PASSED, roomy_disk, tmp_path
from tests.support.tiny_model import tiny_chat, tiny_model

__all__ = ["roomy_disk", "tiny_chat", "tiny_model", "tmp_path"]

# Examples are not timed: on a busy machine one may take seconds. They are the same in every run,
# so that a run that failed can be repeated; MODELOPS_HYPOTHESIS=search draws others each time.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _UNTIMED, derandomize=True)
settings.register_profile("search", _UNTIMED, print_blob=True)
settings.load_profile(os.environ.get("MODELOPS_HYPOTHESIS") or "same")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how the body of a test ended, for what tidies up behind it."""
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report
