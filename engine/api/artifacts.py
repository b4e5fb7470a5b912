"""The registry as the CLI, the screens and the SDK call it: plain views in, plain views out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.keys import Keys
from engine.api.market import Market
from engine.api.remotes import Remotes
from engine.errors import NotFound
from engine.paths import StatePaths
from engine.types.artifacts import (
    ArtifactDetail,
    ArtifactView,
    CompareView,
    EventView,
    FsckReport,
    GateResult,
    GcReport,
    LineageNode,
    StageChange,
    StageView,
    VerifyReport,
)

if TYPE_CHECKING:
    from engine.registry import Registry

Progress = Callable[[int, int], None]


class Artifacts(Keys, Remotes, Market):
    """Artifacts of one state directory. Opening is lazy; a registry is made by the first write."""

    def __init__(self, paths: StatePaths) -> None:
        self.paths = paths

    @cached_property
    def registry(self) -> Registry:
        """The open registry (made, with a device key, where there was none)."""
        from engine.registry import Registry

        return Registry.open(self.paths)

    @property
    def exists(self) -> bool:
        """True when there is a registry; looking never makes one."""
        return (self.paths.registry / "registry.json").exists()

    def _need(self) -> Registry:
        if not self.exists:
            raise NotFound(
                "there is no registry yet",
                hint="a finished job or `modelops-tui models add` makes it",
            )
        return self.registry

    # -- looking ----------------------------------------------------------------------------------

    def list(
        self,
        artifact_type: str | None = None,
        stage: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        metric: str | None = None,
        name: str | None = None,
        include_runs: bool = False,
        limit: int | None = None,
        before: str | None = None,
    ) -> tuple[ArtifactView, ...]:
        """Artifacts, newest first.

        Args:
            artifact_type: only this type.
            stage: only what this stage holds now.
            tag: only with this tag.
            text: beginnings of words in name, version, tags, licence and card.
            metric: a bound such as ``perplexity<=12``.
            name: only this name.
            include_runs: outputs of steps too.
            limit: at most so many.
            before: the manifest id after which the next page begins.
        """
        if not self.exists:
            return ()
        return self.registry.list(
            artifact_type=artifact_type,
            stage=stage,
            tag=tag,
            text=text,
            metric=metric,
            name=name,
            include_runs=include_runs,
            limit=limit,
            before=before,
        )

    def resolve(self, ref: str) -> ArtifactView:
        """The artifact that ``name``, ``name@stage``, ``name@version`` or an id names.

        Raises:
            NotFound: there is none.
        """
        return self._need().resolve(ref)

    def show(self, ref: str) -> ArtifactDetail:
        """Manifest, files, signature states, parents, children, events, card.

        Raises:
            NotFound: there is no such artifact.
            IntegrityError: its manifest is not what was signed.
        """
        from engine.registry.detail import detail

        return detail(self._need(), ref)

    def lineage(self, ref: str, *, up: bool = True, depth: int = 10_000) -> tuple[LineageNode, ...]:
        """Ancestors (``up``) or descendants, nearest first, without the artifact itself."""
        return self._need().lineage(ref, up=up, depth=depth)

    def compare(self, left: str, right: str) -> CompareView:
        """Two artifacts side by side: metrics, files, facts."""
        from engine.registry.detail import compare

        return compare(self._need(), left, right)

    def path(self, ref: str) -> Path:
        """A folder with the artifact's files, verified now.

        Raises:
            IntegrityError: something is not what was signed.
        """
        return self._need().materialize(ref)

    def verify(
        self, ref: str, deep: bool = False, progress: Progress | None = None
    ) -> VerifyReport:
        """Check signature, publication and every file; ``deep`` reads each byte again."""
        from engine.registry.materialize import verify

        registry = self._need()
        return verify(registry, registry.row(ref), deep=deep, report=progress)

    # -- changing ---------------------------------------------------------------------------------

    def add(
        self,
        files: Path | Mapping[str, Path],
        *,
        name: str,
        artifact_type: str,
        version: str | None = None,
        tags: Sequence[str] = (),
        license: str | None = None,  # noqa: A002  the field's name in every manifest
        card: str = "",
        parents: Sequence[tuple[str, str]] = (),
        allow_pickles: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> ArtifactView:
        """Publish files of the user's own.

        Args:
            files: a folder, a file, or names in the artifact -> paths.
            name: what to call it.
            artifact_type: dataset, base, adapter, model, quantized, index, report or recipe.
            version: by default one more than the last.
            tags: words to find it by.
            license: SPDX expression.
            card: Markdown.
            parents: ``(relation, reference)``; references may be names.
            allow_pickles: let plain-tensor pickles in (never to prod).
            progress: told ``(file, bytes done, bytes in all)``.
        """
        registry = self.registry
        return registry.publish(
            name=name,
            artifact_type=artifact_type,
            files=files,
            version=version,
            tags=tags,
            license=license,
            card=card,
            parents=[(rel, registry.resolve(ref).manifest) for rel, ref in parents],
            allow_pickles=allow_pickles,
            hidden=False,
            report=progress,
        )

    def stages(self) -> tuple[StageView, ...]:
        """The stages with who may move them and their gates; none where there is no registry."""
        from engine.registry.promotion import stages

        if not self.exists:
            return ()
        return stages(self.registry)

    def gates(self, ref: str, stage: str) -> tuple[GateResult, ...]:
        """Each condition for promoting ``ref`` to ``stage``, met or not."""
        from engine.registry.promotion import gates

        registry = self._need()
        return gates(registry, registry.row(ref), stage)

    def promote(
        self,
        ref: str,
        stage: str,
        *,
        note: str = "",
        passphrase: str | None = None,
        key: str | None = None,
    ) -> ArtifactView:
        """Move a stage to this version.

        Args:
            ref: the artifact.
            stage: dev, staging, prod or the user's own.
            note: why; kept in the audit trail.
            passphrase: unlocks the release key, where the stage asks for one.
            key: which release key.

        Raises:
            Refused: a gate is not met, or the passphrase is wrong.
        """
        registry = self._need()
        cosigners = [] if passphrase is None else [self._unlock(passphrase, key)]
        return registry.promote(ref, stage, note=note, cosigners=cosigners)

    def _unlock(self, passphrase: str, key: str | None) -> Any:
        from engine.registry.keys import unlock_release_key

        return unlock_release_key(self.registry.layout.keys, passphrase, key)

    def approve(
        self, ref: str, stage: str, *, passphrase: str, key: str | None = None, note: str = ""
    ) -> int:
        """Agree with a release key; returns how many keys agree now."""
        from engine.registry.promotion import approve

        registry = self._need()
        return approve(registry, registry.row(ref), stage, self._unlock(passphrase, key), note=note)

    def demote(
        self,
        name: str,
        stage: str,
        *,
        note: str = "",
        passphrase: str | None = None,
        key: str | None = None,
    ) -> None:
        """Empty a stage of a name.

        Args:
            name: the artifact's name.
            stage: the stage.
            note: why; kept in the audit trail.
            passphrase: unlocks the release key, where the stage asks for one.
            key: which release key.

        Raises:
            NotFound: it holds nothing. Refused: a key of the stage's role must agree.
        """
        from engine.registry.promotion import demote

        registry = self._need()
        cosigners = [] if passphrase is None else [self._unlock(passphrase, key)]
        demote(registry, name, stage, note=note, cosigners=cosigners)

    def demotion_needs_passphrase(self, stage: str) -> bool:
        """True when emptying this stage takes a release key."""
        from engine.registry.promotion import demotion_needs_passphrase

        return demotion_needs_passphrase(self._need(), stage)

    def tag(self, ref: str, tag: str, *, remove: bool = False) -> ArtifactView:
        """Put a tag on this version (it leaves the version that had it), or take it away."""
        from engine.registry.promotion import tag as set_tag

        registry = self._need()
        row = registry.row(ref)
        set_tag(registry, row, tag, remove=remove)
        return registry.resolve(row["manifest"])

    def yank(self, ref: str, reason: str = "", *, undo: bool = False) -> None:
        """Advise against a version; names pass over it from now on."""
        from engine.registry.promotion import yank

        registry = self._need()
        yank(registry, registry.row(ref), reason, undo=undo)

    def delete(self, ref: str, reason: str = "") -> None:
        """Delete a version; ``gc`` frees its bytes.

        Raises:
            Conflict: it holds a stage, or is the base of another.
        """
        from engine.registry.promotion import delete

        registry = self._need()
        delete(registry, registry.row(ref), reason)

    # -- upkeep -----------------------------------------------------------------------------------

    def gc(self, *, dry_run: bool = True, grace_s: float | None = None) -> GcReport:
        """Free the blobs that nothing refers to; by default only tell."""
        from engine.registry.gc import collect

        return collect(self._need(), dry_run=dry_run, grace_s=grace_s)

    def fsck(
        self,
        *,
        deep: bool = False,
        repair: bool = False,
        repair_from: str | None = None,
        progress: Progress | None = None,
    ) -> FsckReport:
        """Check the registry's own files.

        Args:
            deep: read every byte of every blob.
            repair: mend what can be mended here: index, folders of links, damaged blobs put aside.
            repair_from: a remote from which damaged and missing blobs are fetched again.
            progress: told bytes done and in all.
        """
        from engine.registry.fsck import fsck

        registry = self._need()
        fetch = None
        if repair_from is not None:
            from engine.registry.sync.pull import fetcher

            fetch = fetcher(registry, self._book().open(repair_from))
        return fsck(
            registry, deep=deep, repair=repair or fetch is not None, fetch=fetch, report=progress
        )

    # -- exchange ---------------------------------------------------------------------------------

    def export(self, ref: str, target: Path, form: str = "tar") -> Path:
        """Write an artifact for others: tar, folder (with model.sig), oci, hf or gguf."""
        from engine.registry.exchange import export_artifact

        return export_artifact(self._need(), ref, target, form)

    def import_tar(
        self, source: Path, *, name: str | None = None, root: str | None = None
    ) -> ArtifactView:
        """Take in an exported tar; one of another registry needs that one's root fingerprint."""
        from engine.registry.exchange import import_tar

        return import_tar(self.registry, source, name=name, fingerprint=root)

    def import_from(
        self, source: Path, *, name: str | None = None, root: str | None = None
    ) -> ArtifactView:
        """Take in an exported tar, an OCI image layout or a Hugging Face cache.

        Layouts carry no trust root: what they hold is checked against their digests and signed by
        this machine.
        """
        if not source.is_dir():
            return self.import_tar(source, name=name, root=root)
        from engine.registry.layouts import import_layout

        return import_layout(self.registry, source, name=name)

    def verify_folder(self, folder: Path, signature: Path, public_key: Path) -> int:
        """Check a folder against anybody's ``model.sig``; returns how many files were right."""
        from engine.registry.modelsig import verify_folder

        return len(verify_folder(folder, signature, public_key.read_bytes()))

    # -- history ----------------------------------------------------------------------------------

    def audit(
        self,
        *,
        name: str | None = None,
        ref: str | None = None,
        event_type: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int | None = None,
    ) -> tuple[EventView, ...]:
        """The signed events, newest first."""
        from engine.registry import query

        if not self.exists:
            return ()
        registry = self.registry
        manifest = registry.row(ref)["manifest"] if ref else None
        return query.audit(
            registry.db(),
            name=name,
            manifest=manifest,
            event_type=event_type,
            since=since,
            until=until,
            limit=limit,
        )

    def stage_history(
        self, name: str, stage: str | None = None, at: str | None = None
    ) -> tuple[StageChange, ...]:
        """Which version held a stage from when to when; ``at`` answers for one moment (UTC)."""
        from engine.registry import query

        return query.stage_history(self._need().db(), name, stage, at)

    def to_json(self, view: object) -> dict[str, Any]:
        """Any view of this module as JSON values."""
        return dataclasses.asdict(view)  # type: ignore[call-overload,no-any-return]
