"""The run function of ``quantize``: find the source, hand over to the format's path, publish."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError, StepFailed
from engine.worker.context import StepContext, StepResult
from recipes.measuring.measure import save_json
from recipes.measuring.proof import difference
from recipes.quantize.ladder import Rung, make_rung, plan_levels
from recipes.quantize.report import chart, choose, comparison, tables

if TYPE_CHECKING:
    from engine.models import ModelLocation
    from recipes.quantize.schema import QuantizeSpec


@dataclass(frozen=True)
class Source:
    """The whole model that is quantized."""

    location: ModelLocation
    folder: Path
    """Its Hugging Face directory (adapters merged)."""
    tokenizer: Any
    notes: tuple[str, ...]


def run(ctx: StepContext) -> StepResult:
    """Quantize as the recipe says.

    Raises:
        ModelOpsError: with the reason; nothing half-written is published.
    """
    spec: QuantizeSpec = ctx.params  # type: ignore[assignment]
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    if spec.format == "gguf":
        return _run_gguf(ctx, spec)
    from recipes.backends.run import run_backend

    return run_backend(ctx, spec)


def open_source(ctx: StepContext, spec: QuantizeSpec) -> Source:
    """Resolve the model, merge an adapter, and say what the reader of the report must know."""
    from engine.models import resolve_model

    return open_location(ctx, resolve_model(spec.model, ctx.paths))


def open_location(ctx: StepContext, location: ModelLocation) -> Source:
    """The whole model at ``location`` with its tokenizer."""
    from recipes.loading import load_tokenizer, merged_folder
    from recipes.quantize.grid import grid_note

    ctx.phase("opening the source")
    folder = merged_folder(location, ctx.paths)
    note = grid_note(location, ctx.paths)
    return Source(
        location, folder, load_tokenizer(location, paths=ctx.paths), (note,) if note else ()
    )


def _run_gguf(ctx: StepContext, spec: QuantizeSpec) -> StepResult:
    from recipes.quantize.bench import prepare_bench

    source = open_source(ctx, spec)
    unquantized = ctx.work_dir / "source.gguf"
    notes = list(source.notes)
    if not unquantized.is_file():
        notes += _convert(ctx, spec, source, unquantized)
    notes += check_tokenizer(source, unquantized)
    plans = plan_levels(ctx, spec, unquantized)
    bench, importance, found = prepare_bench(ctx, spec, source, unquantized)
    notes += found
    rungs: list[Rung] = []
    for number, level in enumerate(plans):
        if ctx.should_stop:
            ctx.raise_stopped()

        def tell(name: str, part: float, number: int = number) -> None:
            ctx.progress(round(number + part, 3), len(plans), "levels", level=name)

        rungs.append(make_rung(ctx, spec, level, unquantized, bench, importance, tell))
        ctx.progress(number + 1, len(plans), "levels", level=level)
    return finish(ctx, spec, source, rungs, notes)


def _convert(ctx: StepContext, spec: QuantizeSpec, source: Source, target: Path) -> tuple[str, ...]:
    if spec.chosen_backend == "llama-cpp-convert":
        from recipes.backends.convert import convert_by_backend

        return convert_by_backend(ctx, spec, source, target)
    from recipes.gguf.convert import convert

    ctx.phase("converting to GGUF")
    return convert(
        source.folder,
        target,
        dtype=spec.intermediate,
        name=source.location.name,
        progress=lambda done, total: ctx.progress(done, total, "bytes"),
        tokenizer=source.tokenizer,
    ).notes


def check_tokenizer(source: Source, unquantized: Path) -> tuple[str, ...]:
    """Compare the file's tokenizer with the source's on hard text; the limits found are notes.

    Raises:
        StepFailed: they differ; the file is removed.
    """
    from recipes.gguf.parity import compare

    parity = compare(source.tokenizer, unquantized)
    differences = parity.mismatches
    if differences:
        unquantized.unlink(missing_ok=True)
        raise StepFailed(
            "the tokenizer in the GGUF is not the source's",
            why="; ".join(d.describe() for d in differences[:3]),
            hint="nothing was published; gptq and awq keep the source's own tokenizer",
        )
    return parity.limits


def finish(
    ctx: StepContext, spec: QuantizeSpec, source: Source, rungs: list[Rung], notes: list[str]
) -> StepResult:
    """Report, gate, publish what passed, and name the chosen one.

    Raises:
        StepFailed: no level is within ``max_kl``.
    """
    ctx.phase("publishing")
    passed = [r for r in rungs if spec.max_kl is None or r.main().kl <= spec.max_kl]
    best = choose(passed, spec)
    report = tables(rungs, spec, notes, best, len(passed))
    if (change := comparison(rungs, last_report(ctx))) is not None:
        report = (*report, change)
    for table in report:
        ctx.event("table", **table)
    if best is None:
        cheapest = min(rungs, key=lambda r: r.main().kl)
        raise StepFailed(
            f"every level costs more than max_kl = {spec.max_kl}",
            why=f"the nearest is {cheapest.level} with a mean KL of {cheapest.main().kl:.4f}",
            hint="allow more, add a larger level such as Q6_K, or set imatrix = true",
        )
    registry = ctx.registry()
    manifests = {r.level: publish(ctx, registry, source, r, notes) for r in passed}
    report_file = ctx.work_dir / "report.json"
    save_json(
        report_file,
        {
            "model": source.location.name,
            "source": source.location.manifest,
            "levels": [r.to_json() for r in rungs],
            "chart": chart(rungs),
            "notes": notes,
            "tables": list(report),
        },
    )
    view = registry.publish(
        name=f"{ctx.job_name}.{ctx.step}.report",
        artifact_type="report",
        files={"report.json": report_file},
        parents=[("model", m) for m in manifests.values()],
        run={"job": ctx.job_id, "step": ctx.step, "recipe_sha256": ctx.recipe_sha256},
        key=f"{ctx.job_id}/{ctx.step}/report",
    )
    figures = best.main()
    tidy(ctx.work_dir)
    return StepResult(
        outputs={
            "model": manifests[best.level],
            "models": json.dumps([{"level": k, "manifest": v} for k, v in manifests.items()]),
            "kl": figures.kl,
            "perplexity": figures.perplexity,
            "size_bytes": float(best.size_bytes),
            "tokens_per_s": best.tokens_per_s,
            "report": view.id,
        },
        report=report,
    )


def tidy(work: Path) -> None:
    """Free what only later attempts would need: the published artifacts hold the results."""
    for name in ("levels", "publish", "shared"):
        shutil.rmtree(work / name, ignore_errors=True)
    for file in (*work.glob("reference-*"), *work.glob("source.gguf*")):
        file.unlink(missing_ok=True)


def last_report(ctx: StepContext) -> dict[str, Any] | None:
    """``report.json`` of the newest earlier run of this recipe's step, or None."""
    try:
        registry = ctx.registry()
        view = registry.resolve(f"{ctx.job_name}.{ctx.step}.report")
        if (view.run or {}).get("job") == ctx.job_id:
            return None
        path = registry.materialize(view.id) / "report.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ModelOpsError, OSError, ValueError):
        # a first run, or a report that was removed: there is nothing to compare with
        return None
    return found


def publish(ctx: StepContext, registry: Any, source: Source, rung: Rung, notes: list[str]) -> str:
    """Publish one level with its report; twice gives the same id."""
    folder = ctx.work_dir / "publish" / rung.level
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _gather(folder, source, rung)
    figures = rung.main()
    parents = [("quantized_from", source.location.manifest)] if source.location.manifest else []
    try:
        view = registry.publish(
            name=f"{ctx.job_name}.{ctx.step}",
            artifact_type="quantized",
            files=folder,
            parents=parents,
            metrics={
                "kl": figures.kl,
                "kl_p99": figures.kl_p99,
                "perplexity": figures.perplexity,
                "source_perplexity": figures.source_perplexity,
                "top1": figures.top1,
                "bits_per_weight": rung.bits_per_weight,
                "tokens_per_s": rung.tokens_per_s,
            },
            card=_card(source, rung, notes),
            license=source.location.license,
            run={
                "job": ctx.job_id,
                "step": ctx.step,
                "level": rung.level,
                "recipe_sha256": ctx.recipe_sha256,
                "settings": json.dumps(rung.settings, sort_keys=True),
            },
            tags=["gguf" if rung.path.is_file() else "hf", rung.level.lower()],
            key=f"{ctx.job_id}/{ctx.step}/{rung.level}",
        )
    except ModelOpsError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ctx.event("artifact", manifest=view.id, artifact_type="quantized", name=rung.level)
    return str(view.id)


def _gather(folder: Path, source: Source, rung: Rung) -> None:
    """The files of a level's artifact: a GGUF with its Modelfile, or a whole folder."""
    from recipes.export.ollama import modelfile

    save_json(folder / "report.json", rung.to_json())
    if rung.path.is_file():
        file = f"model-{rung.level}.gguf"
        link_or_copy(rung.path, folder / file)
        (folder / "Modelfile").write_text(modelfile(file, source.folder), encoding="utf-8")
        return
    for item in rung.path.iterdir():
        if item.is_file():
            link_or_copy(item, folder / item.name)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows one: the bytes are our own and never change."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _card(source: Source, rung: Rung, notes: list[str]) -> str:
    figures = rung.main()
    why = difference(rung.proof)
    lines = [
        f"# {source.location.name} at {rung.level}",
        "",
        f"- {rung.size_bytes / 1e6:.1f} MB, {rung.bits_per_weight:.2f} bits per weight",
        f"- perplexity {figures.perplexity:.3f} (source {figures.source_perplexity:.3f}) on "
        f"{figures.tokens} tokens of {figures.text}",
        f"- KL divergence {figures.kl:.4f} mean, {figures.kl_p99:.4f} at the 99th percentile",
        f"- same first choice as the source: {100 * figures.top1:.1f} %",
        f"- round trip: {rung.proof['exact']} of {len(rung.proof['cases'])} prompts token by token"
        + (f"; passed: {why}" if why else ""),
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
