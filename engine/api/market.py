"""The catalogue of shared adapters as the CLI and the screens call it; a part of ``Artifacts``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.types.artifacts import ArtifactView, MarketEntry

if TYPE_CHECKING:
    from engine.paths import StatePaths
    from engine.registry import Registry
    from engine.registry.market import Market as Catalogue

Progress = Callable[[str, int, int], None]


class Market:
    """The verbs of ``modelops-tui market``; ``url`` is a catalogue: a bucket or a folder."""

    paths: StatePaths

    @property
    def registry(self) -> Registry:
        raise NotImplementedError

    @property
    def exists(self) -> bool:
        raise NotImplementedError

    def _is_remote(self, name: str) -> bool:
        from engine.registry.layout import Layout
        from engine.registry.sync.remotes import Remotes

        return name in {view.name for view in Remotes(Layout.of(self.paths)).list()}

    def _catalogue(self, url: str, *, looking: bool = False) -> Catalogue:
        """The catalogue; one who only looks at it gets no registry of his own by that."""
        from engine.registry.layout import Layout
        from engine.registry.market import Market as Catalogue
        from engine.registry.sync.remotes import Remotes, connect

        if self._is_remote(url):
            transport = Remotes(Layout.of(self.paths)).open(url)
        else:
            transport = connect(url)
        return Catalogue(None if looking and not self.exists else self.registry, transport)

    def _there(self, url: str) -> None:
        from engine.errors import NotFound

        if "://" not in url and not self._is_remote(url) and not Path(url).expanduser().is_dir():
            raise NotFound(
                f"there is no catalogue {url}",
                hint="name a remote of `modelops-tui remote list`, an s3:// address or a folder",
            )

    def market_browse(
        self, url: str, text: str = "", base: str | None = None
    ) -> tuple[MarketEntry, ...]:
        """What is shared, newest first; ``text`` filters by words.

        Raises:
            NotFound: ``url`` names a folder that is not there.
        """
        self._there(url)
        return self._catalogue(url, looking=True).browse(text, base)

    def market_publish(self, url: str, ref: str, summary: str = "") -> MarketEntry:
        """Share an adapter of this registry."""
        return self._catalogue(url).publish(ref, summary=summary)

    def market_pin(self, url: str, fingerprint: str, owner: str = "") -> str:
        """Trust a publisher by its fingerprint; returns the key id."""
        self._there(url)
        return self._catalogue(url).pin(fingerprint, owner)

    def market_unpin(self, url: str, fingerprint: str) -> None:
        """Trust a publisher no more."""
        self._there(url)
        self._catalogue(url).unpin(fingerprint)

    def market_card(self, url: str, ref: str) -> str:
        """The card of a shared adapter."""
        self._there(url)
        return self._catalogue(url, looking=True).find(ref)[1].card

    def market_verify(self, url: str, ref: str) -> tuple[str, ...]:
        """Read a shared adapter's files again; returns the problems."""
        self._there(url)
        return self._catalogue(url).verify(ref)

    def market_install(
        self,
        url: str,
        ref: str,
        *,
        base: str | None = None,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> ArtifactView:
        """Fetch, check and publish a shared adapter here.

        Args:
            url: the catalogue.
            ref: ``name``, ``name@version`` or ``fingerprint/name``.
            base: the base model it is to go on; by default the one it names.
            name: what to call it here.
            progress: told ``(file, bytes done, bytes in all)``.

        Raises:
            Refused: publisher not pinned, base does not fit, files that are no plain data.
        """
        self._there(url)
        catalogue = self._catalogue(url)
        folder, manifest = self._base(base or catalogue.find(ref)[1].base.name, needed=bool(base))
        return catalogue.install(
            ref, base=folder, base_manifest=manifest, name=name, report=progress
        )

    def _base(self, ref: str, *, needed: bool) -> tuple[Path | None, str | None]:
        from engine.errors import ModelOpsError
        from engine.models import resolve_model

        try:
            location = resolve_model(ref, self.paths)
        except ModelOpsError:
            if needed:
                raise
            return None, None
        return location.path, location.manifest
