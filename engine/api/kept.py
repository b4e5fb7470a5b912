"""Rows kept from chats until they become a version of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.paths import StatePaths
from engine.types.chats import KeptRows
from engine.types.data import DatasetVersion


class Kept:
    """The rows that wait in one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    def keep(self, dataset: str, row: Mapping[str, Any]) -> int:
        """Write a row down for ``dataset``; returns how many wait for it now.

        Raises:
            BadInput: the name can't name a dataset.
        """
        from engine.data import kept

        return kept.keep(self._paths, dataset, row)

    def list(self) -> tuple[KeptRows, ...]:
        """The datasets for which rows wait, and how many."""
        from engine.data import kept

        return kept.waiting(self._paths)

    def rows(self, dataset: str) -> tuple[dict[str, Any], ...]:
        """The rows themselves.

        Raises:
            NotFound: none waits for that dataset.
        """
        from engine.data import kept

        return kept.rows(self._paths, dataset)

    def add(self, dataset: str) -> DatasetVersion:
        """Make a signed version of ``dataset`` with the waiting rows added.

        Raises:
            NotFound: no row waits for it.
            ModelOpsError: what an import raises; the rows wait on.
        """
        from engine.data import kept
        from engine.data.publish import publish_version
        from engine.data.versions import open_dataset

        version = kept.add(self._paths, dataset)
        opened = open_dataset(dataset, self._paths)
        publish_version(opened, version.version, self._paths)
        return next(v for v in opened.versions() if v.version == version.version)

    def discard(self, dataset: str) -> int:
        """Let the waiting rows go; returns how many there were.

        Raises:
            NotFound: no row waits for it.
        """
        from engine.data import kept

        return kept.discard(self._paths, dataset)
