"""A kind for tests of the engine: steps that count, checkpoint, write a ledger, and misbehave.

Put ``tests/support/plugin`` on PYTHONPATH; the entry points beside this package do the rest.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from engine.kinds import Kind
from engine.recipe.spec import StepSpec


class ProbeSpec(StepSpec):
    """What the probe does, in this order."""

    steps: int = 1
    step_s: float = 0.0
    checkpoint_every: int = 0
    hold: str = ""
    """Before the last step, wait while this file exists: the test says when the run may end."""
    ledger: str = ""
    """A file that gets one line at the begin, at each step and at the commit (O_APPEND)."""
    fail_at: int = -1
    crash_at: int = -1
    """SIGKILL itself at this step, once (a marker file remembers)."""
    always_crash: bool = False
    signal_at: int = -1
    exit_at: int = -1
    ignore_term: bool = False
    orphan: bool = False
    """Start a child that closes all descriptors and lives on."""
    hog_mib: int = 0
    tells_mib: int = 0
    """Say in the result that so much memory was used."""
    value: Any = 1.0
    tag: str = ""
    secret: str = ""
    loud_kib: int = 0
    imports: str = ""
    """Modules to import first, separated by commas."""
    train: dict[str, Any] = Field(default_factory=dict)
    """As of a training step: ``distributed.processes`` asks for so many GPUs."""


_OUTPUTS = {"total": "number", "tag": "text", "secret": "text", "resumed_from": "number"}

KIND = Kind(
    name="probe",
    summary="counts, checkpoints and misbehaves",
    model=ProbeSpec,
    run="probe_kind.run:run",
    outputs=_OUTPUTS,
    lane="auto",
    estimate="probe_kind.run:estimate",
    resumable=True,
)

SERVER = Kind(
    name="probe-server",
    summary="holds a share until it is stopped",
    model=ProbeSpec,
    run="probe_kind.run:run",
    outputs=_OUTPUTS,
    lane="auto",
    estimate="probe_kind.run:estimate",
    shares=True,
)
