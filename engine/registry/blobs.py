"""Bytes by their sha256: taken in once, immutable, and looked at again before they are used.

A cache of (device, inode, size, mtime, ctime) spares reading what did not change since it was
hashed. ``deep`` checks never ask it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Conflict, IntegrityError, OutOfSpace, Refused
from engine.registry.layout import Layout
from engine.supervise.crash import crash_point
from engine.supervise.durable import sync_folder

CHUNK = 1 << 20
_FICLONE = 0x40049409

#: A file changed so shortly before it was hashed may change again within one clock tick unnoticed.
RACY_NS = 20_000_000

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Taken:
    """A file that is now (or already was) a blob."""

    digest: str
    size: int
    stored: bool
    """False when the blob was there already."""


class StatCache:
    """What was hashed, by the file's identity; losing it costs time, never truth."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(
                self._path, timeout=10, isolation_level=None, check_same_thread=False
            )
            # ours alone and derived: a crash may cost it, so nothing is synced
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=off")
            db.execute(
                "create table if not exists seen (dev integer, ino integer, size integer, "
                "mtime integer, ctime integer, digest text, primary key (dev, ino)) without rowid"
            )
            self._db = db
        return self._db

    def _reset(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def get(self, s: os.stat_result) -> str | None:
        """The digest of an unchanged file, or None."""
        with self._lock:
            try:
                row = (
                    self._connection()
                    .execute(
                        "select digest from seen "
                        "where dev=? and ino=? and size=? and mtime=? and ctime=?",
                        (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns),
                    )
                    .fetchone()
                )
            except sqlite3.DatabaseError:
                self._reset()
                return None
        return row[0] if row else None

    def put(self, s: os.stat_result, digest: str, *, ours: bool = False) -> None:
        """Remember a digest, but of a file that changed a moment ago.

        Args:
            s: the file as it was hashed.
            digest: its sha256.
            ours: we wrote it under a name nobody knew, so that no one else can have changed it.
        """
        if not ours and max(s.st_mtime_ns, s.st_ctime_ns) > time.time_ns() - RACY_NS:
            return
        with self._lock:
            try:
                self._connection().execute(
                    "insert or replace into seen values (?,?,?,?,?,?)",
                    (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, digest),
                )
            except sqlite3.DatabaseError:
                # a cache: the next look hashes again
                self._reset()

    def put_ours(self, files: Iterable[tuple[os.stat_result, str]]) -> None:
        """Remember the digests of files that we wrote, in one transaction."""
        rows = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, d) for s, d in files]
        with self._lock:
            try:
                db = self._connection()
                db.execute("begin")
                db.executemany("insert or replace into seen values (?,?,?,?,?,?)", rows)
                db.execute("commit")
            except sqlite3.DatabaseError:
                self._reset()


class Blobs:
    """The blob folder of a registry."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.cache = StatCache(layout.stat_cache)

    def has(self, digest: str, size: int) -> bool:
        """True when the blob is there with its full size (its bytes are not read)."""
        try:
            status = self.layout.blob(digest).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def take(self, source: Path, *, move: bool = False, progress: Progress | None = None) -> Taken:
        """Make ``source`` a blob: hashed while it is copied, or renamed in.

        Args:
            source: a plain file; links, devices and pipes are refused.
            move: the file is ours alone and may be renamed in.
            progress: told the bytes done.

        Raises:
            Refused: it is no plain file.
            Conflict: it changed while it was read.
            OutOfSpace: the disk is full.
        """
        fd = open_plain(source)
        try:
            before = os.fstat(fd)
            known = self.cache.get(before)
            if known and self.has(known, before.st_size) and not self.changed(known):
                os.utime(self.layout.blob(known))  # keep it young for gc's grace
                self._remember(known)
                return Taken(known, before.st_size, stored=False)
            if move and before.st_nlink == 1 and before.st_uid == os.getuid():
                digest = _hash_fd(fd, progress)
                _unchanged(before, os.fstat(fd), source)
                stored = self._rename_in(source, fd, digest, before)
            else:
                digest, stored = self._copy_in(fd, before, source, progress)
        finally:
            os.close(fd)
        if not stored or not move:
            self.cache.put(before, digest)
        return Taken(digest, before.st_size, stored)

    def _rename_in(self, source: Path, fd: int, digest: str, before: os.stat_result) -> bool:
        target = self.layout.blob(digest)
        if self.has(digest, before.st_size) and self.intact(digest):
            os.utime(target)
            return False
        os.fchmod(fd, 0o444)
        os.fsync(fd)
        crash_point("registry.blob-synced")
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            os.lseek(fd, 0, os.SEEK_SET)
            return self._copy_in(fd, os.fstat(fd), source, None)[1]
        sync_folder(self.layout.blobs)
        return True

    def _copy_in(
        self, fd: int, before: os.stat_result, source: Path, progress: Progress | None
    ) -> tuple[str, bool]:
        partial = self.layout.staging / f"blob-{os.getpid()}-{secrets.token_hex(6)}"
        out = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            if _reflinked(fd, out):
                digest = _hash_fd(fd, progress)
            else:
                digest = _copy_and_hash(fd, out, progress)
            _unchanged(before, os.fstat(fd), source)
            target = self.layout.blob(digest)
            if self.has(digest, before.st_size) and self.intact(digest):
                os.utime(target)
                return digest, False
            os.fsync(out)
            crash_point("registry.blob-synced")
            os.rename(partial, target)
            crash_point("registry.blob-renamed")
            sync_folder(self.layout.blobs)
            self.cache.put(target.lstat(), digest, ours=True)
            return digest, True
        except OSError as error:
            raise full_disk(error, self.layout.blobs) from error
        finally:
            os.close(out)
            partial.unlink(missing_ok=True)

    def changed(self, digest: str) -> bool:
        """True when the blob does not look like when it was last hashed (or never was)."""
        try:
            return self.cache.get(self.layout.blob(digest).lstat()) != digest
        except FileNotFoundError:
            return True

    def intact(self, digest: str, *, deep: bool = False, progress: Progress | None = None) -> bool:
        """True when the blob's bytes have their name as sha256.

        Args:
            digest: the blob.
            deep: read it even when the cache knows it.
            progress: told the bytes done.
        """
        try:
            fd = open_plain(self.layout.blob(digest))
        except (FileNotFoundError, Refused):
            return False
        try:
            before = os.fstat(fd)
            if not deep and self.cache.get(before) == digest:
                return True
            if _hash_fd(fd, progress) != digest:
                return False
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if _identity(before) == _identity(after):
            self.cache.put(after, digest)
        return True

    def _remember(self, digest: str) -> None:
        self.cache.put(self.layout.blob(digest).lstat(), digest, ours=True)

    def require(self, digest: str, size: int, what: str) -> Path:
        """The path of a blob whose bytes are right.

        Raises:
            IntegrityError: missing, truncated or tampered with.
        """
        path = self.layout.blob(digest)
        if not path.exists():
            reason = "its blob is missing"
        elif not self.has(digest, size):
            reason = f"its blob has {path.lstat().st_size} bytes, signed are {size}"
        elif not self.intact(digest):
            reason = "its bytes are not the ones that were signed"
        else:
            return path
        raise IntegrityError(
            f"{what} is refused",
            why=f"{reason} (sha256 {digest[:16]}…)",
            hint="modelops-tui models fsck --deep (and --repair-from REMOTE, which mends it)",
        )


def open_plain(path: Path) -> int:
    """A descriptor of a plain file; links, pipes and devices are refused without opening them.

    Raises:
        Refused: it is something else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Refused(f"{path} is refused", why="it is a link or a special file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path} is refused", why="it is no plain file")
    return fd


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """The sha256 of a plain file, in hex."""
    fd = open_plain(path)
    try:
        return _hash_fd(fd, progress)
    finally:
        os.close(fd)


def _hash_fd(fd: int, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        digest.update(view[:count])
        if progress:
            progress(count)
    return digest.hexdigest()


def _copy_and_hash(source: int, target: int, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := os.readv(source, [buffer]):
        digest.update(view[:count])
        done = 0
        while done < count:
            done += os.write(target, view[done:count])
        if progress:
            progress(count)
    return digest.hexdigest()


def _reflinked(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _identity(s: os.stat_result) -> tuple[int, ...]:
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _unchanged(before: os.stat_result, after: os.stat_result, source: Path) -> None:
    if _identity(before)[:4] != _identity(after)[:4]:
        raise Conflict(
            f"{source} changed while it was read",
            why="its size or time of change moved",
            hint="let the program that writes it end, then publish again",
        )


def full_disk(error: Exception, folder: Path) -> Exception:
    """``error``, or what to say when the disk is full."""
    full = isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)
    if full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return OutOfSpace(
            f"no space left in {folder}",
            why=str(error),
            hint="nothing half-written is believed; `modelops-tui models gc` frees what is unused",
        )
    return error


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Say it plainly where the disk of ``folder`` turns out to be full.

    Raises:
        OutOfSpace: it is.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        said = full_disk(error, folder)
        if said is error:
            raise
        raise said from error
