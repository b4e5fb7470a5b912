"""Room on the disk: the floor we keep free, the ballast that pays for the last words, no NFS.

A full disk must still let the engine record how a run ended: the ballast file is given back to the
file system when a write of the engine fails for want of space, and taken again when there is room.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from engine.errors import OutOfSpace, Refused
from engine.paths import StatePaths

MIB = 1 << 20

#: New jobs are refused and queued ones wait when less than this is free.
FLOOR_BYTES = 256 * MIB
BALLAST_BYTES = 8 * MIB

_ENV_FLOOR = "MODELOPS_SPACE_FLOOR_MIB"
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "beegfs"}
)
_NETWORK_PREFIXES = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph")


def floor_bytes() -> int:
    """The free-space floor: 256 MiB, or ``$MODELOPS_SPACE_FLOOR_MIB``."""
    text = os.environ.get(_ENV_FLOOR)
    return int(float(text) * MIB) if text else FLOOR_BYTES


def free_bytes(folder: Path) -> int:
    """What this user may still write on the file system of ``folder``."""
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize


def require_space(paths: StatePaths, extra: int = 0) -> None:
    """Refuse work when it would go below the floor.

    Raises:
        OutOfSpace: with what is free, what is needed, and what to do.
    """
    folder = paths.root if paths.root.exists() else nearest_existing(paths.root)
    free, needed = free_bytes(folder), floor_bytes() + extra
    if free < needed:
        raise OutOfSpace(
            f"not enough space on the disk of {paths.root}",
            why=f"{free / MIB:.0f} MiB are free, {needed / MIB:.0f} MiB must stay free",
            hint="`modelops-tui jobs rm` and `modelops-tui models gc` free some",
        )


def keep_ballast(paths: StatePaths) -> None:
    """Allocate the ballast file where there is room above the floor for it."""
    if paths.ballast.exists() or free_bytes(paths.root) < floor_bytes() + 2 * BALLAST_BYTES:
        return
    fd = os.open(paths.ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, BALLAST_BYTES)
    except OSError:
        with suppress(OSError):
            paths.ballast.unlink()
    finally:
        os.close(fd)


def drop_ballast(paths: StatePaths) -> bool:
    """Give the ballast back to the file system; True when there was one."""
    with suppress(FileNotFoundError):
        paths.ballast.unlink()
        return True
    return False


def file_system_of(folder: Path) -> str:
    """The type of the file system ``folder`` is on (``ext4``, ``nfs4``), ``""`` when unknown."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0]
    return ""


def refuse_network_folder(folder: Path) -> None:
    """Refuse a state directory on a network file system.

    SQLite's write-ahead log needs shared memory, and a flock there is not the kernel's: two
    machines could both believe that they hold a card.

    Raises:
        Refused: with the type of the file system.
    """
    kind = file_system_of(folder)
    if kind in _NETWORK_TYPES or kind.startswith(_NETWORK_PREFIXES):
        raise Refused(
            f"the state directory {folder} is on a network file system ({kind})",
            why="locks and the job store are only safe on a local disk",
            hint="set MODELOPS_HOME (or --state) to a folder on a local disk",
        )


def nearest_existing(path: Path) -> Path:
    """``path``, or the nearest of its parents that is there (a broken link is there)."""
    while not os.path.lexists(path):
        path = path.parent
    return path
