"""The run function of ``export``: make the files, prove them against the source, hand them over."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Conflict, Refused, StepFailed
from engine.models import ModelLocation, resolve_model
from engine.plugins import extensions
from engine.worker.context import StepContext, StepResult
from recipes.export.check import target_problems
from recipes.export.ollama import modelfile
from recipes.export.quantized import prove_quantized, quant_method, with_cases
from recipes.export.schema import TARGETS
from recipes.export.vllm import prove_vllm
from recipes.measuring.measure import save_json
from recipes.measuring.proof import Proof, SourceAnswer, answer, prove_gguf, prove_torch, require
from recipes.quantize.run import check_tokenizer, link_or_copy, open_location

if TYPE_CHECKING:
    from recipes.export.schema import ExportSpec
    from recipes.quantize.run import Source


#: Artifact types of the targets that are no single quantized file.
_TYPES = {"hf": "model", "vllm": "model", "gguf-adapter": "adapter"}


@dataclass(frozen=True)
class Made:
    """The files of an export and their proof."""

    folder: Path
    proof: Proof
    notes: tuple[str, ...]


def run(ctx: StepContext) -> StepResult:
    """Export as the recipe says.

    Raises:
        Refused: the target program can't load this model.
        BadInput: the exported files do not behave like their source; nothing is handed over.
        Conflict: the folder to write exists already.
    """
    spec: ExportSpec = ctx.params  # type: ignore[assignment]
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    location = resolve_model(spec.model, ctx.paths)
    problems = [p for p in target_problems(spec, location) if p.severity == "error"]
    if problems:
        raise Refused(problems[0].what, hint=problems[0].advice)
    staging = ctx.work_dir / "export"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    if location.kind == "gguf" and not location.packaged:
        made = _copy_gguf(ctx, spec, location, staging)
    elif quant_method(location) and spec.target in TARGETS:
        made = _quantized(ctx, spec, location, staging)
    else:
        made = _from_source(ctx, spec, location, staging)
    require(made.proof, f"the {spec.target} export")
    save_json(staging / "proof.json", made.proof.to_json())
    return _hand_over(ctx, spec, location, made)


def _from_source(
    ctx: StepContext, spec: ExportSpec, location: ModelLocation, staging: Path
) -> Made:
    source = open_location(ctx, location)
    if spec.target not in TARGETS:
        return _plugged(ctx, spec, source, staging)
    stops = _stops(source)
    answers = _ask(ctx, spec, source, stops)
    if spec.target == "gguf-adapter":
        from recipes.export.adapter import write_adapter

        return Made(staging, *write_adapter(ctx, location, answers, stops, staging))
    if spec.target in ("hf", "vllm"):
        made = _directory(ctx, source, answers, stops, staging)
        dtype = "float32" if ctx.device == "cpu" else "bfloat16"
        return _through_vllm(ctx, made, answers, stops, dtype) if spec.target == "vllm" else made
    return _gguf(ctx, spec, source, answers, stops, staging)


def _plugged(ctx: StepContext, spec: ExportSpec, source: Source, staging: Path) -> Made:
    """What a plugin writes. Its form is the plugin's own: no program of ours can prove it."""
    export = extensions("exporter").get(spec.target)
    ctx.phase(f"writing {spec.target}")
    try:
        export(source.folder, staging)
    except Exception as error:
        raise StepFailed(
            f"the exporter {spec.target!r} failed", why=f"{type(error).__name__}: {error}"
        ) from error
    made = list(staging.iterdir())
    if not made or not all(file.is_file() for file in made):
        raise StepFailed(
            f"the exporter {spec.target!r} must write files, and no folders",
            why=f"it left {', '.join(sorted(file.name for file in made)) or 'nothing'}",
        )
    notes = (*source.notes, f"written by the plugin {spec.target}: not proved against the source")
    return Made(staging, Proof((), 0.0, True, True, True, 0.0, ()), notes)


def _ask(
    ctx: StepContext, spec: ExportSpec, source: Source, stops: tuple[int, ...]
) -> list[SourceAnswer]:
    """The true source answers: an adapter on its base, not the merged weights."""
    import torch

    from recipes.loading import load_causal_lm
    from recipes.measuring.torch_model import TorchScorer
    from recipes.quantize.texts import prompts, read

    ctx.phase("asking the source")
    torch.set_num_threads(max(ctx.threads, 1))
    _name, examples = read(spec.data, ctx.paths)
    heads = prompts(examples, source.tokenizer, spec.prompts, 512)
    dtype = torch.float32 if ctx.device == "cpu" else torch.bfloat16
    model = TorchScorer(load_causal_lm(source.location, dtype, ctx.device, paths=ctx.paths))
    try:
        return answer(
            model,
            [(p.text, p.ids) for p in heads],
            spec.prompt_tokens,
            stops,
            lambda: ctx.raise_stopped() if ctx.should_stop else None,
        )
    finally:
        model.close()


def _stops(source: Source) -> tuple[int, ...]:
    from recipes.quantize.bench import stops_of

    return stops_of(source)


def _directory(
    ctx: StepContext,
    source: Source,
    answers: list[SourceAnswer],
    stops: tuple[int, ...],
    staging: Path,
) -> Made:
    from recipes.quantize.torch_source import load_source

    ctx.phase("writing the directory")
    _copy_files(source.folder, staging)
    ctx.phase("proving the export")
    result = load_source(staging, threads=ctx.threads, device=ctx.device)
    try:
        proof = prove_torch(result, answers, stops)
    finally:
        result.close()
    return Made(staging, proof, source.notes)


def _quantized(ctx: StepContext, spec: ExportSpec, location: ModelLocation, staging: Path) -> Made:
    """Weights that a backend made: copied, and answering as the model they were made from."""
    from recipes.loading import load_tokenizer
    from recipes.quantize.run import Source
    from recipes.quantize.texts import prompts, read

    tokenizer = load_tokenizer(location, paths=ctx.paths)
    source = Source(location, location.path, tokenizer, ())
    stops = _stops(source)
    ctx.phase("writing the directory")
    _copy_files(source.folder, staging)
    _name, examples = read(spec.data, ctx.paths)
    heads = prompts(examples, source.tokenizer, spec.prompts, 512)
    proof, answers, notes = prove_quantized(
        ctx,
        location,
        staging,
        heads,
        spec.prompt_tokens,
        stops,
        lambda whole: _ask(ctx, spec, open_location(ctx, whole), stops),
    )
    made = Made(staging, proof, notes)
    if spec.target != "vllm" or not answers:
        return made
    return _through_vllm(ctx, made, answers, stops, "bfloat16" if ctx.device == "cpu" else "auto")


def _through_vllm(
    ctx: StepContext, made: Made, answers: list[SourceAnswer], stops: tuple[int, ...], dtype: str
) -> Made:
    """The same prompts through vLLM itself, where it is installed and the rest holds."""
    if not made.proof.passed:
        return made
    more, note = prove_vllm(ctx, made.folder, answers, stops, made.proof.allowed_gap, dtype)
    proof = made.proof if more is None else with_cases(made.proof, more)
    return Made(made.folder, proof, (*made.notes, note))


def _copy_files(source: Path, target: Path) -> None:
    """Every file but those that would be unpickled."""
    for file in source.iterdir():
        if file.is_file() and file.suffix not in (".bin", ".pt", ".pth"):
            link_or_copy(file, target / file.name)


def _gguf(
    ctx: StepContext,
    spec: ExportSpec,
    source: Source,
    answers: list[SourceAnswer],
    stops: tuple[int, ...],
    staging: Path,
) -> Made:
    from recipes.gguf.convert import convert
    from recipes.gguf.levels import LEVELS, UNQUANTIZED
    from recipes.gguf.quantizer import Settings, quantize

    ctx.phase("converting to GGUF")
    whole = ctx.work_dir / "whole.gguf"
    plain = spec.level if spec.level in UNQUANTIZED else "auto"
    made = convert(
        source.folder,
        whole,
        dtype=plain,
        name=source.location.name,
        progress=lambda done, total: ctx.progress(done, total, "bytes"),
        tokenizer=source.tokenizer,
    )
    limits = check_tokenizer(source, whole)
    file = staging / f"model-{spec.level}.gguf"
    if spec.level in UNQUANTIZED:
        whole.rename(file)
    else:
        ctx.phase(f"quantizing to {spec.level}")
        try:
            quantize(
                whole,
                file,
                Settings(LEVELS[spec.level], ctx.threads),
                progress=lambda done, total: ctx.progress(done, total, "tensors"),
                should_stop=lambda: ctx.should_stop,
            )
        except InterruptedError:
            ctx.raise_stopped()
        whole.unlink()
    ctx.phase("proving the export")
    proof = prove_gguf(
        file,
        answers,
        source.tokenizer,
        stops=stops,
        noise=None,
        threads=ctx.threads,
        gpu_layers=-1 if ctx.device == "cuda" else 0,
        lossless=spec.level in UNQUANTIZED,
    )
    if spec.target == "ollama":
        (staging / "Modelfile").write_text(modelfile(file.name, source.folder), encoding="utf-8")
    return Made(staging, proof, (*source.notes, *made.notes, *limits))


def _copy_gguf(ctx: StepContext, spec: ExportSpec, location: ModelLocation, staging: Path) -> Made:
    """A GGUF that exists already: copied, and proven to answer as the original does."""
    from recipes.gguf.runtime import GgufModel
    from recipes.quantize.texts import read

    ctx.phase("copying")
    file = staging / location.path.name
    link_or_copy(location.path, file)
    beside = location.path.parent / "Modelfile"
    if spec.target == "ollama":
        text = f"FROM ./{file.name}\n"
        if beside.is_file():
            text = beside.read_text(encoding="utf-8")
        (staging / "Modelfile").write_text(text, encoding="utf-8")
    ctx.phase("proving the export")
    _name, examples = read(spec.data, ctx.paths)
    texts = [" ".join(e.plain().split()[:24]) for e in examples[: spec.prompts]]
    cases = []
    with GgufModel(location.path, context=1024, threads=ctx.threads) as original:
        heads = [(t, original.tokenize(t, special=True)) for t in texts if t]
        want = [original.generate(ids, spec.prompt_tokens) for _text, ids in heads]
        template = original.meta("tokenizer.chat_template")
    with GgufModel(file, context=1024, threads=ctx.threads) as copy:
        from recipes.measuring.proof import exact_case

        for (text, ids), tokens in zip(heads, want, strict=True):
            cases.append(exact_case(text, tokens, copy.generate(ids, spec.prompt_tokens)))
        same = copy.meta("tokenizer.chat_template") == template
    problems = tuple(c.describe(0.0) for c in cases if not c.accepted)
    return Made(staging, Proof(tuple(cases), 0.0, same, True, True, 0.0, problems), ())


def _hand_over(
    ctx: StepContext, spec: ExportSpec, location: ModelLocation, made: Made
) -> StepResult:
    ctx.phase("publishing")
    size = sum(f.stat().st_size for f in made.folder.iterdir() if f.is_file())
    kind = _TYPES.get(spec.target, "quantized")
    parents = [("exported_from", location.manifest)] if location.manifest else []
    if spec.target == "gguf-adapter" and location.base is not None and location.base.manifest:
        parents.append(("base", location.base.manifest))
    view = ctx.registry().publish(
        name=f"{ctx.job_name}.{ctx.step}",
        artifact_type=kind,
        files=made.folder,
        parents=parents,
        metrics={"exact": float(made.proof.exact), "prompts": float(len(made.proof.cases))},
        card=_card(spec, location, made),
        license=location.license or location.root.license,
        run={"job": ctx.job_id, "step": ctx.step, "target": spec.target},
        tags=["export", spec.target],
        key=f"{ctx.job_id}/{ctx.step}/export",
    )
    ctx.event("artifact", manifest=view.id, artifact_type=kind, name=spec.target)
    path = _place(spec, made.folder) if spec.to is not None else ""
    table: dict[str, Any] = {
        "title": f"Export for {spec.target}",
        "columns": ["what", "value"],
        "rows": [
            ["files", ", ".join(sorted(f.name for f in made.folder.iterdir()))],
            ["size MB", round(size / 1e6, 1)],
            ["round trip", made.proof.summary()],
            ["folder", path or "in the registry only"],
        ],
        "notes": [*([why] if (why := made.proof.difference()) else []), *made.notes],
    }
    ctx.event("table", **table)
    shutil.rmtree(made.folder, ignore_errors=True)
    return StepResult(
        {
            "model": view.id,
            "path": path,
            "exact": float(made.proof.exact),
            "prompts": float(len(made.proof.cases)),
            "size_bytes": float(size),
        },
        (table,),
    )


def _place(spec: ExportSpec, folder: Path) -> str:
    """Copy the files to ``to``; the folder appears there whole, by one rename."""
    target = Path(str(spec.to)).expanduser().absolute()
    if target.exists() and any(target.iterdir()):
        same = sorted(f.name for f in target.iterdir()) == sorted(f.name for f in folder.iterdir())
        if same and (target / "proof.json").read_bytes() == (folder / "proof.json").read_bytes():
            return str(target)
        raise Conflict(
            f"{target} exists already", hint="the export is in the registry; name another folder"
        )
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in folder.iterdir():
        shutil.copyfile(file, partial / file.name)
        with open(partial / file.name, "rb") as data:
            os.fsync(data.fileno())
    if target.exists():
        target.rmdir()
    partial.rename(target)
    return str(target)


def _card(spec: ExportSpec, location: ModelLocation, made: Made) -> str:
    why = made.proof.difference()
    lines = [
        f"# {location.name} for {spec.target}",
        "",
        f"Round trip against the source: {made.proof.summary()} prompts, token by token."
        + (f" Passed: {why}." if why else ""),
        *(f"- {note}" for note in made.notes),
    ]
    return "\n".join(lines) + "\n"
