"""The ``register`` step: verify the source, publish under the user's name, promote, tell."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.models import ModelLocation, resolve_model
from engine.registry import Registry
from engine.types.artifacts import ArtifactView
from engine.worker.context import StepContext, StepResult
from recipes.register.schema import RegisterSpec


def run(ctx: StepContext) -> StepResult:
    """Register ``ctx.params.model``.

    A retried attempt finds what the first one published (the idempotence key) and goes on with it.
    """
    spec = ctx.params
    assert isinstance(spec, RegisterSpec)
    registry = ctx.registry()
    ctx.phase("verifying")
    location = resolve_model(spec.model, ctx.paths)
    ctx.phase("publishing")
    view = _publish(ctx, spec, registry, location)
    if spec.stage != "none":
        ctx.phase(f"promoting to {spec.stage}")
        view = registry.promote(view.manifest, spec.stage, note=f"recipe {ctx.job_name}")
    ctx.phase("verifying")
    report = registry.verify(view.manifest)
    table = _table(registry, view, report.ok)
    ctx.event("artifact", manifest=view.manifest, artifact_type=view.artifact_type, name=view.name)
    ctx.event("table", **table)
    return StepResult({"model": view.manifest, "version": view.version}, report=(table,))


def _publish(
    ctx: StepContext, spec: RegisterSpec, registry: Registry, location: ModelLocation
) -> ArtifactView:
    version = None if spec.version == "auto" else spec.version
    run = {"job": ctx.job_id, "step": ctx.step}
    key = f"{ctx.job_id}/{ctx.step}/model"
    if location.manifest is not None:
        return registry.register(
            location.manifest,
            name=spec.name,
            version=version,
            tags=spec.tags,
            license=spec.license,
            card=spec.card or None,
            run=run,
            key=key,
        )
    parents = []
    if location.base is not None and location.base.manifest is not None:
        parents.append(("base", location.base.manifest))
    kinds = {"adapter": "adapter", "gguf": "quantized", "hf": "model"}
    return registry.publish(
        name=spec.name,
        artifact_type=kinds[location.kind],
        files=location.path,
        parents=parents,
        version=version,
        tags=spec.tags,
        license=spec.license or location.license,
        card=spec.card,
        run={**run, "source": location.name},
        recipe=ctx.recipe_sha256 or None,
        key=key,
        hidden=False,
    )


def _table(registry: Registry, view: ArtifactView, verified: bool) -> Mapping[str, Any]:
    row = registry.row(view.manifest)
    moved = datetime.fromtimestamp(view.created, UTC).isoformat(timespec="seconds")
    rows: list[list[Any]] = [
        ["name", f"{view.name}@{view.version}"],
        ["manifest", view.manifest],
        ["type", view.artifact_type],
        ["stage", ", ".join(view.stages) or "none"],
        ["licence", view.license or "none given"],
        ["size", f"{view.size_bytes / 1e6:.1f} MB in {view.files} files"],
        ["signed by", f"device key {row['signed_by'][:16]}, {moved}"],
        ["verified", "yes: signature, publication and every file" if verified else "NO"],
    ]
    for node in registry.lineage(view.manifest, up=True, depth=1):
        known = f"{node.view.name}@{node.view.version}" if node.view else "not here"
        rows.append([node.relation.replace("_", " "), f"{known} ({node.manifest[7:19]})"])
    return {
        "title": f"Registered {view.name}@{view.version}",
        "columns": ["what", "value"],
        "rows": rows,
        "notes": [f"modelops-tui models verify {view.name}@{view.version} --deep"],
    }
