"""The SDK: ``from modelops_tui import Workstation``. The same objects as everywhere else."""

from __future__ import annotations

from modelops_tui.sdk.workstation import Workstation

__all__ = ["Workstation"]
