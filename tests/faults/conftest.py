"""A harness for each fault test; its state directory is kept when the test fails."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import PLUGIN, Harness, seed_of


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    outcome = yield
    setattr(item, f"report_{call.when}", outcome.get_result())


@pytest.fixture(autouse=True)
def _probe_kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from engine.kinds import load_kinds

    monkeypatch.syspath_prepend(str(PLUGIN))
    monkeypatch.setenv("MODELOPS_SPACE_FLOOR_MIB", "1")
    load_kinds.cache_clear()
    yield
    load_kinds.cache_clear()


@pytest.fixture
def harness(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Harness]:
    made = Harness(tmp_path, seed_of(request.node.name))
    try:
        yield made
    finally:
        request.node.user_properties.append(
            (
                "attack",
                {
                    "seed": made.seed,
                    "jobs": len(made.accepted),
                    "kills": dict(made.kills),
                    "figures": made.figures,
                },
            )
        )
        made.close()
        report = getattr(request.node, "report_call", None)
        if report is not None and report.failed:
            # out of pytest's own folders, which are cleared after three more runs
            kept = Path(tempfile.gettempdir(), "modelops-faults", f"{tmp_path.name}-{made.seed}")
            shutil.copytree(
                tmp_path,
                kept,
                ignore_dangling_symlinks=True,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("*.sock"),
            )
            sys.stdout.write(f"kept: {kept}\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of ``make faults``: what was done to the engine, and what it did."""
    rows = []
    # the reports of teardowns have no outcome of their own; they carry what the harness counted
    for report in terminalreporter.stats.get("", []):
        attack = dict(report.user_properties).get("attack")
        if report.when == "teardown" and attack is not None:
            rows.append((report, attack))
    if not rows:
        return
    failed = {report.nodeid for report in terminalreporter.stats.get("failed", [])}
    terminalreporter.section("faults")
    for report, attack in sorted(rows, key=lambda row: str(row[0].nodeid)):
        kills = ", ".join(f"{role} {n}" for role, n in sorted(attack["kills"].items())) or "-"
        name = report.nodeid.rpartition("::")[2]
        verdict = "FAILED" if report.nodeid in failed else "ok"
        terminalreporter.write_line(
            f"{name:<58} {verdict:<6} jobs {attack['jobs']:>4}  killed: {kills}"
            f"  {''.join(f'{name} {value}  ' for name, value in attack['figures'].items())}"
            f"seed {attack['seed']}"
        )
