"""Cloning: a registry that lives elsewhere becomes the one of this (empty) state directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import Conflict, OutOfSpace, Refused
from engine.paths import StatePaths
from engine.registry.keys import device_key
from engine.registry.layout import Layout
from engine.registry.store import describe
from engine.registry.sync import pull, remote, remotes
from engine.registry.sync.transport import Transport
from engine.registry.trust import create_only
from engine.types.artifacts import SyncProgress, SyncReport

if TYPE_CHECKING:
    from engine.registry import Registry


def clone(
    paths: StatePaths,
    url: str,
    *,
    name: str = "origin",
    fingerprint: str | None = None,
    only: str | None = None,
    connect: Callable[[str], Transport] = remotes.connect,
    report: Callable[[SyncProgress], None] | None = None,
) -> tuple[Registry, SyncReport]:
    """Take over a remote registry.

    Args:
        paths: a state directory without a registry.
        url: the remote.
        name: what to call the remote here.
        fingerprint: the first root's sha256 (or its beginning, 16 digits or more) as its holder's
            ``keys show`` prints it; without it the first sight is believed.
        only: a glob; of other names only the manifests come.
        connect: makes the transport.
        report: told the progress.

    Raises:
        Conflict: there is a registry here already.
        Refused: the remote's root is not the one that was asked for.
        IntegrityError: anything there is not rightly signed.
    """
    from engine.registry import Registry

    layout = Layout.of(paths)
    if layout.about.exists():
        raise Conflict(
            f"{paths.root} has a registry already",
            hint="clone into another state directory: modelops-tui --state DIR remote clone ...",
        )
    transport = connect(url)
    about = remote.read_about(transport)
    wanted = (fingerprint or "").replace(" ", "").lower()
    if wanted and (len(wanted) < 16 or not about["root"].startswith(wanted)):
        raise Refused(
            f"{url} is not the registry you asked for",
            why=f"its root is {about['root'][:32]}, you gave {wanted[:32]}",
            hint="ask its holder for the fingerprint again, by another way",
        )
    judge, documents = remote.read_roots(transport, [], about["root"])
    try:
        verdict = remotes.probe(transport)
    except (Refused, OutOfSpace, OSError) as error:
        # who may only read (or whose stick is full) can clone all the same
        verdict = remotes.Probe(False, False, 0, unwritable=str(error))
    paths.ensure()
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for folder in layout.folders():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        device_key(layout.keys)
        for number, data in enumerate(documents, 1):
            create_only(layout.root_document(number), data)
        describe(layout, judge)
    finally:
        os.close(fd)
    registry = Registry.open(paths)
    remotes.Remotes(layout).add(name, url, verdict)
    return registry, pull.pull(registry, name, transport, only=only, report=report)
