"""What takes the space of the state directory, by part."""

from __future__ import annotations

import os
from pathlib import Path

from engine.paths import StatePaths
from engine.types.system import DiskUse

_PARTS = (
    ("runs", "runs", "logs and checkpoints; `modelops-tui jobs rm`"),
    ("registry", "registry", "signed artifacts; `modelops-tui models gc`"),
    ("datasets", "datasets", "dataset versions"),
    ("indexes", "indexes", "retrieval indexes"),
    ("backends", "backends", "environments of backends"),
    ("cache", "cache", "can be deleted at any time"),
)


def disk_use(paths: StatePaths) -> tuple[DiskUse, ...]:
    """Allocated bytes by part, largest first (holes and hard links are counted once)."""
    seen: set[tuple[int, int]] = set()
    parts = [
        DiskUse(name, str(paths.root / folder), allocated(paths.root / folder, seen), note)
        for name, folder, note in _PARTS
    ]
    store = sum(allocated(f, seen) for f in paths.root.glob("*.db*"))
    parts.append(DiskUse("job store", str(paths.jobs_db), store, "jobs.db and the queue"))
    return tuple(sorted(parts, key=lambda part: -part.bytes))


def allocated(place: Path, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes of disk blocks under ``place`` (0 when it is not there); links are not followed."""
    seen = set() if seen is None else seen
    if not place.is_symlink() and place.is_file():
        return _blocks(place.stat(), seen)
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            total += _blocks(status, seen)
    return total


def _blocks(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    key = (status.st_dev, status.st_ino)
    if status.st_nlink > 1:
        if key in seen:
            return 0
        seen.add(key)
    return status.st_blocks * 512
