"""Remotes, push and pull as the CLI and the screens call them; a part of ``Artifacts``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.types.artifacts import (
    RemoteView,
    SyncChange,
    SyncProgress,
    SyncReport,
    SyncStatus,
)

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from engine.registry import Registry
    from engine.registry.sync.remotes import Remotes as Book

Report = Callable[[SyncProgress], None]


class Remotes:
    """The verbs of ``modelops-tui remote``."""

    paths: StatePaths

    @property
    def registry(self) -> Registry:
        raise NotImplementedError

    def _book(self) -> Book:
        from engine.registry.layout import Layout
        from engine.registry.sync.remotes import Remotes as Book

        return Book(Layout.of(self.paths))  # reading it makes no registry

    def remotes(self) -> tuple[RemoteView, ...]:
        """The remotes of this registry."""
        return self._book().list()

    def remote_add(self, name: str, url: str) -> RemoteView:
        """Probe a place and keep it.

        Raises:
            BadInput: no address; Refused: wrong credentials; ModelOpsError: not reachable.
        """
        from engine.registry.sync.remotes import Remotes as Book
        from engine.registry.sync.remotes import connect, probe

        verdict = probe(connect(url))
        return Book(self.registry.layout).add(name, url, verdict)

    def remote_probe(self, name: str) -> RemoteView:
        """Judge a remote again: does it honour conditional writes?"""
        from engine.registry.sync.remotes import connect, probe

        book = self._book()
        return book.judge(name, probe(connect(book.get(name).url)))

    def remote_remove(self, name: str) -> None:
        """Forget a remote (what lies there stays)."""
        self._book().remove(name)

    def push(
        self, name: str = "origin", *, dry_run: bool = False, progress: Report | None = None
    ) -> SyncReport:
        """Bring a remote up to date (and merge what others pushed).

        Raises:
            IntegrityError: ROLLBACK, FORK, forged; Refused: this machine may not.
        """
        from engine.registry.sync.push import push

        book = self._book()
        there = book.open(name)
        report = push(self.registry, name, there, dry_run=dry_run, report=progress)
        if not dry_run:
            book.mark(name, "push")
        return report

    def pull(
        self,
        name: str = "origin",
        *,
        only: str | None = None,
        dry_run: bool = False,
        allow_expired: bool = False,
        progress: Report | None = None,
    ) -> SyncReport:
        """Take in what a remote has; a pull that fails changes nothing.

        Args:
            name: the remote.
            only: a glob over names; of others only the manifests come, marked partial.
            dry_run: check and tell, change nothing.
            allow_expired: believe an expired checkpoint.
            progress: told each step.
        """
        from engine.registry.sync.pull import pull

        book = self._book()
        there = book.open(name)
        report = pull(
            self.registry,
            name,
            there,
            only=only,
            dry_run=dry_run,
            allow_expired=allow_expired,
            report=progress,
        )
        if not dry_run:
            book.mark(name, "pull")
        return report

    def sync_status(self, name: str = "origin") -> SyncStatus:
        """What a push and a pull would move."""
        from engine.registry.sync.push import status

        there = self._book().open(name)
        return status(self.registry, name, there)

    def sync_diff(self, name: str = "origin") -> tuple[SyncChange, ...]:
        """Every event that is only here or only there, in words."""
        from engine.registry.sync.push import diff

        there = self._book().open(name)
        return diff(self.registry, name, there)

    def clone(
        self,
        url: str,
        *,
        name: str = "origin",
        fingerprint: str | None = None,
        only: str | None = None,
        progress: Report | None = None,
    ) -> SyncReport:
        """Make a remote's registry the one of this (empty) state directory."""
        from engine.registry.sync.clone import clone

        return clone(
            self.paths, url, name=name, fingerprint=fingerprint, only=only, report=progress
        )[1]
