"""Isolated backends from outside: list, install, remove, doctor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.paths import StatePaths

if TYPE_CHECKING:
    from engine.backends import BackendState


class Backends:
    """The locked environments of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    def list(self) -> tuple[BackendState, ...]:
        """Every backend of this installation and how its environment stands."""
        from engine.backends import BackendStore

        return BackendStore(self._paths).list()

    def install(
        self, name: str, tell: Callable[[str], None], *, again: bool = False
    ) -> BackendState:
        """Make the environment of ``name`` (``again``: anew), telling every step.

        Raises:
            NotFound: no such backend.
            MissingPart: it can't be made, with the reason.
        """
        from engine.backends import BackendStore, find

        self._paths.ensure()
        store, spec = BackendStore(self._paths), find(name)
        store.install(spec, tell, again=again)
        return store.state(spec)

    def remove(self, name: str) -> int:
        """Delete the environments of ``name``; the bytes that were freed."""
        from engine.backends import BackendStore, find

        return BackendStore(self._paths).remove(find(name))

    def doctor(self, name: str | None = None) -> tuple[BackendState, ...]:
        """Import every installed backend (or the one called ``name``) in its environment."""
        from engine.backends import BackendStore, discover, find

        store = BackendStore(self._paths)
        specs = [find(name)] if name is not None else list(discover().values())
        return tuple(store.doctor(spec) for spec in specs)
