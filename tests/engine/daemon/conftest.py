"""The engine tests use the fault tests' harness: a real engine on a state directory of its own."""

from tests.faults.conftest import _probe_kind, harness, pytest_runtest_makereport

__all__ = ["_probe_kind", "harness", "pytest_runtest_makereport"]
