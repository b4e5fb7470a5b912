"""The ``rag`` step: sync the index, report every file that could not be read, publish."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.data import resolve_data
from engine.worker.context import StepContext, StepResult
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.schema import RagSpec
from recipes.rag.store import Index, named_index
from recipes.rag.sync import SyncReport

if TYPE_CHECKING:
    from engine.registry import Registry

#: rows of the table of unreadable files; the rest is in ``rag inspect``
REPORT_ROWS = 200


def job_of(spec: RagSpec, folder: object) -> Job:
    """The sync a spec asks for."""
    from pathlib import Path

    return Job(
        index=spec.index,
        folder=Path(str(folder)),
        model=spec.model,
        language=spec.language,
        chunk_tokens=spec.chunks.tokens,
        chunk_overlap=spec.chunks.overlap,
        include=tuple(spec.include),
        exclude=tuple(spec.exclude),
        tags=spec.tags,
        follow_links=spec.follow_links,
        max_file_mb=spec.max_file_mb,
        rebuild=spec.rebuild,
    )


def run(ctx: StepContext) -> StepResult:
    """Bring the index up to date; a stopped or killed attempt goes on where it was."""
    spec = ctx.params
    if not isinstance(spec, RagSpec):
        raise TypeError(f"a rag step got {type(spec).__name__}")
    folder = resolve_data(spec.folder, ctx.paths).path
    ctx.phase("reading, chunking and embedding")
    began = last = time.monotonic()

    def progress(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.25 or done == total:
            last = now
            eta = (now - began) / done * (total - done)
            ctx.progress(done, total, "files", eta_s=round(eta, 1), name=name)

    report = sync_index(
        job_of(spec, folder),
        ctx.paths,
        device=ctx.device,
        progress=progress,
        stop=lambda: ctx.should_stop,
    )
    if ctx.should_stop:
        ctx.raise_stopped()
    tables = report_tables(report, spec.index)
    for table in tables:
        ctx.event("table", **table)
    for path, why in list(report.unreadable.items())[:20]:
        ctx.note(f"{path}: {why}", level="warning")
    manifest = _publish(ctx, spec, report) if spec.publish else ""
    return StepResult(
        outputs={
            "index": manifest,
            "documents": float(report.documents),
            "chunks": float(report.chunks),
        },
        report=tuple(tables),
    )


def report_tables(report: SyncReport, name: str) -> list[dict[str, object]]:
    """The report of a sync: what was done, and every file that could not be read."""
    done = [
        ["added", report.added], ["changed", report.changed], ["renamed", report.renamed],
        ["removed", report.removed], ["unchanged", report.unchanged],
        ["unreadable", len(report.unreadable)], ["documents", report.documents],
        ["chunks", report.chunks], ["chunks embedded", report.embedded_chunks],
        ["chunks kept", report.reused_chunks], ["seconds", round(report.seconds, 2)],
    ]  # fmt: skip
    tables: list[dict[str, object]] = [
        {"title": f"Index {name}", "columns": ["files", "count"], "rows": done, "notes": []}
    ]
    trouble = [[p, why] for p, why in sorted({**report.warnings, **report.unreadable}.items())]
    if trouble:
        more = len(trouble) - REPORT_ROWS
        tables.append(
            {
                "title": "Files that could not be read, or were read with a remark",
                "columns": ["file", "reason"],
                "rows": trouble[:REPORT_ROWS],
                "notes": [f"and {more} more"] if more > 0 else [],
            }
        )
    return tables


def _publish(ctx: StepContext, spec: RagSpec, report: SyncReport) -> str:
    ctx.phase("publishing")
    manifest = publish_index(
        ctx.registry(),
        named_index(spec.index, ctx.paths),
        name=f"{ctx.job_name}.{ctx.step}",
        run={"job": ctx.job_id, "step": ctx.step, "recipe_sha256": ctx.recipe_sha256},
        key=f"{ctx.job_id}/{ctx.step}/index",
    )
    if manifest:
        ctx.event("artifact", manifest=manifest, artifact_type="index", name=spec.index)
    return manifest


def publish_index(
    registry: Registry,
    index: Index,
    *,
    name: str,
    run: dict[str, str] | None = None,
    key: str | None = None,
) -> str:
    """Sign what an index answers from, as an artifact of the registry.

    Returns:
        Its manifest id; empty where nothing answers yet.

    Raises:
        Conflict: a sync of it runs.
    """
    with index.writing():
        generation = index.current
        if generation is None:
            return ""
        documents = int(index.pointer.get("documents", 0))
        chunks = int(index.pointer.get("chunks", 0))
        artifact = registry.publish(
            name=name,
            artifact_type="index",
            files=generation.folder,
            metrics={"documents": float(documents), "chunks": float(chunks)},
            card=f"# Index {index.name}\n\n{documents} documents, {chunks} chunks, "
            f"embedded by {generation.meta.fingerprint}.\n",
            run=run or {},
            key=key,
        )
        manifest: str = artifact.manifest
        index.published(manifest)
    return manifest
