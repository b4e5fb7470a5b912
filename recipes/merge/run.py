"""The ``merge`` step: base plus adapter, written as one model and published."""

from __future__ import annotations

import os
from shutil import rmtree
from typing import TYPE_CHECKING

from engine.errors import OutOfSpace
from engine.models import resolve_model
from engine.worker.context import StepResult
from recipes.finetune.trainer import is_full_disk
from recipes.loading import base_artifact, merge_adapter
from recipes.merge.schema import MergeSpec

if TYPE_CHECKING:
    from engine.worker.context import StepContext

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def run(ctx: StepContext) -> StepResult:
    """Merge the adapter and publish the whole model with both as its parents.

    Raises:
        Conflict: the model is no adapter.
        OutOfSpace: the disk is full.
    """
    spec = ctx.params
    if not isinstance(spec, MergeSpec):
        raise TypeError(f"merge was given a {type(spec).__name__}")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch  # 1.5 s

    if ctx.threads:
        torch.set_num_threads(ctx.threads)
    location = resolve_model(spec.model, ctx.paths)
    ctx.phase(f"merging {location.name} into {location.root.name}")
    folder = ctx.work_dir / "merged"
    rmtree(folder, ignore_errors=True)
    registry = ctx.registry()
    try:
        merge_adapter(location, folder, ctx.paths, getattr(torch, _DTYPES[spec.dtype]))
        parents = [("adapter", location.manifest)] if location.manifest else []
        parents.append(("base", base_artifact(location.root, ctx.paths, registry)))
        view = registry.publish(
            name=f"{ctx.job_name}.{ctx.step}",
            artifact_type="model",
            files=folder,
            parents=[(rel, manifest) for rel, manifest in parents if manifest],
            card=f"# {ctx.job_name}\n\n{location.name} merged into {location.root.name}: "
            f"the sum in fp32, stored in {spec.dtype}.\n",
            license=location.license or location.root.license,
            run={"job": ctx.job_id, "step": ctx.step, "recipe_sha256": ctx.recipe_sha256},
            key=f"{ctx.job_id}/{ctx.step}/model",
        )
    except Exception as error:
        if not is_full_disk(error) or isinstance(error, OutOfSpace):
            raise
        raise OutOfSpace(
            "no space to write the merged model",
            why=str(error),
            hint="free about twice the base's size, then `modelops-tui jobs retry`",
        ) from error
    finally:
        rmtree(folder, ignore_errors=True)
    ctx.event("artifact", manifest=view.id, artifact_type=view.artifact_type, name=view.name)
    return StepResult({"model": view.id})
