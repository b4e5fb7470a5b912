"""The signed local registry of artifacts: publish, resolve, verify before load, stages, lineage.

``Registry.open(paths)`` is all that recipes and the public face use; each verb has its module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from engine.paths import StatePaths
from engine.registry import materialize as _materialize
from engine.registry import promotion, query
from engine.registry.documents import Manifest
from engine.registry.keys import SigningPair
from engine.registry.log import SignedEvent, read_event
from engine.registry.publish import Report, Wanted, publish, publish_entries
from engine.registry.store import Store, open_store
from engine.types.artifacts import ArtifactView, LineageNode, VerifyReport

__all__ = ["Registry"]


class Registry(Store):
    """An open registry."""

    @classmethod
    def open(cls, paths: StatePaths, *, create: bool = True) -> Registry:
        """Open the registry of a state directory; the first opening makes it, and a device key.

        Raises:
            NotFound: there is none and ``create`` is False.
            IntegrityError: its trust root is damaged.
        """
        return cast(Registry, open_store(paths, cls, create=create))

    def publish(
        self,
        *,
        name: str,
        artifact_type: str,
        files: Path | Mapping[str, Path],
        parents: Sequence[tuple[str, str]] = (),
        metrics: Mapping[str, float] | None = None,
        card: str = "",
        license: str | None = None,  # noqa: A002  the field's name in every manifest
        run: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        key: str | None = None,
        stage: str | None = None,
        version: str | None = None,
        move: bool = False,
        hidden: bool | None = None,
        allow_pickles: bool = False,
        recipe: str | None = None,
        report: Report | None = None,
    ) -> ArtifactView:
        """Take files in as a signed, immutable artifact.

        Args:
            name: what people call it; outputs of steps are ``<recipe>.<step>``.
            artifact_type: dataset, base, adapter, model, quantized, index, report or recipe.
            files: a folder, a file, or names in the artifact -> paths.
            parents: ``(relation, manifest id)`` of what it was made from.
            metrics: signed with it; infinities and NaN are left out.
            card: Markdown about it.
            license: SPDX expression; by default what the parents' licences come to.
            run: facts of the run (job, step, versions), as texts.
            tags: words to find it by.
            key: idempotence key: publishing again under it returns the first artifact.
            stage: promote it at once, through the stage's gates.
            version: by default one more than the last.
            move: the files are the caller's scratch and may be renamed in.
            hidden: not in lists; by default so for outputs of steps (a key, a dot in the name).
            allow_pickles: let plain-tensor pickles in; such an artifact never reaches prod.
            recipe: sha256 of the recipe.
            report: told ``(file, bytes done, bytes in all)``.

        Raises:
            BadInput, Refused, Conflict, OutOfSpace, IntegrityError: nothing was published.
        """
        if hidden is None:
            hidden = key is not None and "." in name and artifact_type != "dataset"
        wanted = Wanted(
            name=name,
            artifact_type=artifact_type,
            parents=tuple((rel, parent) for rel, parent in parents),
            metrics=metrics,
            card=card,
            license=license,
            run=run,
            recipe=recipe,
            tags=tuple(tags),
            key=key,
            version=version,
            hidden=hidden,
            allow_pickles=allow_pickles,
            move=move,
        )
        manifest_id = publish(self, wanted, files, report)
        if stage is not None:
            self.promote(manifest_id, stage)
        return self.resolve(manifest_id)

    def register(
        self,
        ref: str,
        *,
        name: str,
        version: str | None = None,
        tags: Sequence[str] = (),
        license: str | None = None,  # noqa: A002
        card: str | None = None,
        run: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> ArtifactView:
        """Publish an artifact that is here under another name: no byte is copied.

        The new one keeps the source's lineage edges and names the source itself.

        Raises:
            NotFound, IntegrityError, Conflict: nothing was published.
        """
        row = self.row(ref)
        source = self.manifest(row["manifest"])
        _materialize.materialize(self, row)
        parents = [("registered_from", row["manifest"])]
        parents += [(p.rel, p.manifest) for p in source.parents]
        wanted = Wanted(
            name=name,
            artifact_type=source.type,
            parents=tuple(dict.fromkeys(parents)),
            metrics={k: float(v) for k, v in source.metrics.items()},
            card=source.card if card is None else card,
            license=license or source.license,
            run={**source.run, **(run or {})},
            recipe=source.recipe,
            tags=tuple(dict.fromkeys([*source.tags, *tags])),
            key=key,
            version=version,
        )
        wanted.check()
        return self.resolve(publish_entries(self, wanted, list(source.files), source.scan))

    # -- reading ----------------------------------------------------------------------------------

    def row(self, ref: str) -> Any:
        """The index's row of what ``ref`` names (a name, name@stage, name@version or an id)."""
        return query.find(self.db(), ref)

    def resolve(self, ref: str) -> ArtifactView:
        """The artifact that ``ref`` names; where a stage was asked for, by its signed event.

        Raises:
            NotFound: there is none.
            IntegrityError: the index and the signed log disagree.
        """
        row = self.row(ref)
        name, _, which = ref.strip().partition("@")
        if which and self.trust.stage(which) is not None:
            _materialize.check_stage(self, name, which)
        return self._marked(query.views(self.db(), [row]))[0]

    def manifest(self, manifest_id: str) -> Manifest:
        """A checked manifest."""
        return self.read_manifest(manifest_id)[0]

    def manifest_event(self, manifest_id: str) -> SignedEvent:
        """The signed event that published an artifact.

        Raises:
            IntegrityError: it is missing or changed.
        """
        row = self.row(manifest_id)
        _materialize.check_origin(self, row)
        path = self.layout.event(row["writer"], row["seq"])
        return read_event(path.read_bytes(), self.trust, f"event {row['writer']}/{row['seq']}")

    def materialize(self, ref: str) -> Path:
        """A folder of links to verified blobs: verify before load, always.

        Raises:
            NotFound: no such artifact.
            IntegrityError: anything is not what was signed.
        """
        view = self.resolve(ref)
        return _materialize.materialize(self, self.row(view.manifest))

    def verify(self, ref: str, deep: bool = False) -> VerifyReport:
        """Check signature, publication and every blob; lists the problems."""
        return _materialize.verify(self, self.row(ref), deep=deep)

    def list(self, **filters: Any) -> tuple[ArtifactView, ...]:
        """Artifacts, newest first; see ``query.select`` for the filters."""
        return self._marked(query.select(self.db(), **filters))

    def _marked(self, views: tuple[ArtifactView, ...]) -> tuple[ArtifactView, ...]:
        partial = self.partial()
        if not partial:
            return views
        return tuple(
            replace(view, partial=True) if view.manifest[7:] in partial else view for view in views
        )

    def lineage(self, ref: str, *, up: bool = True, depth: int = 10_000) -> tuple[LineageNode, ...]:
        """Ancestors (``up``) or descendants, nearest first."""
        return query.lineage(self.db(), self.row(ref)["manifest"], up=up, depth=depth)

    def ancestors(self, ref: str) -> Sequence[str]:
        """Manifest ids of everything an artifact was made from, nearest first."""
        return query.ancestors(self.db(), self.row(ref)["manifest"])

    # -- changing ---------------------------------------------------------------------------------

    def promote(
        self, ref: str, stage: str, *, note: str = "", cosigners: Sequence[SigningPair] = ()
    ) -> ArtifactView:
        """Move a stage to this version, through its gates.

        Raises:
            Refused: a gate is not met.
        """
        row = self.row(ref)
        promotion.promote(self, row, stage, note=note, cosigners=cosigners)
        return self.resolve(row["manifest"])
