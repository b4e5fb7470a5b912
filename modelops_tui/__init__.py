"""The front door: command line, TUI launcher, gateway and SDK. No logic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelops_tui.sdk import Workstation

__version__ = "0.1.0"
__all__ = ["Workstation", "__version__"]


def __getattr__(name: str) -> Any:
    # lazily: `modelops-tui --help` must not pay for the SDK
    if name == "Workstation":
        from modelops_tui.sdk import Workstation

        return Workstation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
