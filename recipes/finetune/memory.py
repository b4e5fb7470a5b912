"""How much memory this process has used at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes(device: str) -> int:
    """Peak resident memory on the CPU; peak reserved memory on a GPU, in bytes."""
    if device != "cpu":
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            return int(torch.cuda.max_memory_reserved())
    # ru_maxrss is in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
