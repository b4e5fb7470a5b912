"""Verify before load: a folder of links is handed out only after its bytes were checked."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import IntegrityError, ModelOpsError, NotFound, Refused
from engine.registry.documents import Manifest, Promote, Publish
from engine.registry.layout import digest_of
from engine.registry.log import read_event
from engine.registry.names import check_paths
from engine.types.artifacts import VerifyReport

if TYPE_CHECKING:
    import sqlite3

    from engine.registry.store import Store

Report = Callable[[int, int], None]
"""``(bytes done, bytes in all)``."""


def check_origin(store: Store, row: sqlite3.Row) -> None:
    """The index is only derived: read the signed event that published the artifact.

    Raises:
        IntegrityError: the event is missing, changed, revoked, or says something else.
    """
    _check_event(store, row["writer"], row["seq"], row["manifest"])


def check_stage(store: Store, name: str, stage: str) -> None:
    """Read the signed event that put a version into a stage.

    Raises:
        IntegrityError: the event is missing, changed, revoked, or says something else.
    """
    row = (
        store.db()
        .execute("select * from stages where name=? and stage=?", (name, stage))
        .fetchone()
    )
    if row is not None:
        _check_event(store, row["writer"], row["seq"], row["manifest"])


def _check_event(store: Store, writer: str, seq: int, manifest: str) -> None:
    what = f"event {writer}/{seq}"
    try:
        data = store.layout.event(writer, seq).read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{what} is missing", hint="modelops-tui models fsck") from error
    signed = read_event(data, store.trust, what)
    body = signed.event.body
    if not signed.signers:
        raise IntegrityError(
            "the artifact is refused", why=f"{what}: the key that signed it was revoked"
        )
    if not isinstance(body, (Publish, Promote)) or body.manifest != manifest:
        raise IntegrityError(
            "the index does not agree with the signed log",
            why=f"{what} does not speak of {manifest[:19]}",
            hint="modelops-tui models fsck --repair rebuilds the index",
        )


def materialize(store: Store, row: sqlite3.Row, report: Report | None = None) -> Path:
    """Check an artifact and return its folder of links to blobs.

    Raises:
        IntegrityError: the manifest, the publication or any blob is not what was signed.
        Refused: the artifact is deleted.
    """
    if row["deleted"]:
        raise Refused(f"{row['name']}@{row['version']} is deleted", why=row["reason"])
    manifest_id = row["manifest"]
    if digest_of(manifest_id) in store.partial():
        raise NotFound(
            f"{row['name']}@{row['version']} is here in part only",
            why="its manifest was pulled without its files",
            hint=f"modelops-tui remote pull REMOTE --only {row['name']}",
        )
    check_origin(store, row)
    manifest, _ = store.read_manifest(manifest_id)
    check_paths(file.path for file in manifest.files)
    total, done = manifest.size_bytes, 0
    for file in manifest.files:
        store.blobs.require(file.sha256, file.size, f"{manifest.name}@{row['version']}")
        done += file.size
        if report:
            report(done, total)
    folder = store.layout.views / digest_of(manifest_id)
    if not is_whole(folder, manifest, store.layout.blobs):
        _link(folder, manifest, store.layout.blobs)
    return folder


def _target(blobs: Path, digest: str) -> str:
    return str(blobs / digest)


def is_whole(folder: Path, manifest: Manifest, blobs: Path) -> bool:
    """True when the folder has exactly the manifest's links, each to its blob."""
    wanted = {file.path: _target(blobs, file.sha256) for file in manifest.files}
    found = 0
    pending = [(folder, "")]
    while pending:
        here, prefix = pending.pop()
        try:
            entries = list(os.scandir(here))
        except (FileNotFoundError, NotADirectoryError):
            return False
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink():
                if wanted.get(name) != os.readlink(entry.path):
                    return False
                found += 1
            elif entry.is_dir():
                pending.append((Path(entry.path), name + "/"))
            else:
                return False
    return found == len(wanted)


def _link(folder: Path, manifest: Manifest, blobs: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    made.mkdir()
    try:
        for file in manifest.files:
            link = made / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(_target(blobs, file.sha256))
        try:
            made.rename(folder)
        except OSError:
            # somebody else was quicker, or an altered folder is in the way
            if not is_whole(folder, manifest, blobs):
                aside = made.with_name(f"{made.name}.old")
                folder.rename(aside)
                made.rename(folder)
                shutil.rmtree(aside)
    finally:
        if made.exists():
            shutil.rmtree(made)


def verify(
    store: Store, row: sqlite3.Row, *, deep: bool, report: Report | None = None
) -> VerifyReport:
    """Check an artifact and list every problem instead of stopping at the first.

    Args:
        store: the registry.
        row: the artifact in the index.
        deep: read every byte again, whatever the cache remembers.
        report: told bytes done and in all.
    """
    begun = time.monotonic()
    problems: list[str] = []
    files = size = done = 0
    signers: tuple[str, ...] = ()
    try:
        check_origin(store, row)
    except ModelOpsError as error:
        problems.append(str(error))
    try:
        manifest, sealed = store.read_manifest(row["manifest"])
        signers = tuple(sorted(sealed.signers(store.trust.public_keys())))
        check_paths(file.path for file in manifest.files)
    except ModelOpsError as error:
        problems.append(str(error))
    else:
        files, size = len(manifest.files), manifest.size_bytes
        for file in manifest.files:
            path = store.layout.blob(file.sha256)
            if not path.exists():
                problems.append(f"{file.path}: its blob {file.sha256[:12]} is missing")
            elif not store.blobs.has(file.sha256, file.size):
                problems.append(
                    f"{file.path}: {path.lstat().st_size} bytes, signed are {file.size}"
                )
            elif not store.blobs.intact(file.sha256, deep=deep):
                problems.append(f"{file.path}: its bytes are not the ones that were signed")
            done += file.size
            if report:
                report(done, size)
    return VerifyReport(
        manifest=row["manifest"],
        name=f"{row['name']}@{row['version']}",
        ok=not problems,
        problems=tuple(problems),
        files=files,
        size_bytes=size,
        deep=deep,
        signed_by=signers,
        seconds=time.monotonic() - begun,
    )
