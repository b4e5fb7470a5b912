"""Changing a file behind the program's back, as malware or a bad disk would."""

from __future__ import annotations

import time
from pathlib import Path

from engine.registry.blobs import RACY_NS


def write_over(path: Path, data: bytes) -> None:
    """Replace the bytes of a file, whatever its mode, a clock tick after it was last written.

    File systems stamp changes with the tick of the kernel's clock, 4 ms on most machines and up to
    10. Two changes within one tick look like one, and no look at a file's times tells them apart.
    """
    time.sleep(RACY_NS / 1e9)
    path.chmod(0o600)
    path.write_bytes(data)
