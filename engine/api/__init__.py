"""The public face: everything the screens, the CLI, the gateway and the SDK may call.

``Workbench`` groups it by subject. Each subject is a module here that imports what it needs when it
is called; making a ``Workbench`` opens nothing and starts nothing.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.paths import StatePaths

if TYPE_CHECKING:
    from engine.api.artifacts import Artifacts
    from engine.api.backends import Backends
    from engine.api.data import Data
    from engine.api.jobs import Jobs
    from engine.api.kept import Kept
    from engine.api.rag import Rag
    from engine.api.recipes import Recipes
    from engine.api.serving import Serving
    from engine.api.system import System


class Workbench:
    """One state directory, seen from outside the engine process."""

    def __init__(self, state_dir: Path | str | None = None) -> None:
        self.paths = StatePaths(Path(state_dir).absolute()) if state_dir else StatePaths.default()

    @cached_property
    def jobs(self) -> Jobs:
        """Submit, list, follow, cancel, pause, resume, retry."""
        from engine.api.jobs import Jobs

        return Jobs(self.paths)

    @cached_property
    def recipes(self) -> Recipes:
        """The library, checking, explaining, the schema."""
        from engine.api.recipes import Recipes

        return Recipes(self.paths)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The signed registry: list, show, verify, promote, lineage, sync."""
        from engine.api.artifacts import Artifacts

        return Artifacts(self.paths)

    @cached_property
    def backends(self) -> Backends:
        """Locked environments of isolated backends: list, install, remove, doctor."""
        from engine.api.backends import Backends

        return Backends(self.paths)

    @cached_property
    def data(self) -> Data:
        """Datasets and their versions, previews, reports, SQL."""
        from engine.api.data import Data

        return Data(self.paths)

    @cached_property
    def kept(self) -> Kept:
        """Rows kept from chats until they become a version of a dataset."""
        from engine.api.kept import Kept

        return Kept(self.paths)

    @cached_property
    def rag(self) -> Rag:
        """Indexes: ask, inspect, evaluate."""
        from engine.api.rag import Rag

        return Rag(self.paths)

    @cached_property
    def serving(self) -> Serving:
        """Deployments and chat."""
        from engine.api.serving import Serving

        return Serving(self.paths)

    @cached_property
    def system(self) -> System:
        """Engine lifecycle, devices, disk, settings, doctor."""
        from engine.api.system import System

        return System(self.paths)
