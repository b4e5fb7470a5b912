"""The recipe side of isolated backends: prepare, call the worker, normalize, measure, publish.

The main environment tokenizes and computes the source's predictions; the backend sees token ids and
files only. What it writes is completed with the source's own tokenizer files, so that the result
is a folder like any other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.backends import BackendProcess, BackendSpec, BackendStore, find
from engine.errors import DoesNotFit, StepFailed
from recipes.measuring.measure import Measured, cut, save_json
from recipes.measuring.proof import LOSSLESS_GAP, NOISE_FACTOR, Proof, judge
from recipes.quantize.check import group_size, in_features
from recipes.quantize.memory import UNCALIBRATED, check_room

if TYPE_CHECKING:
    from engine.worker.context import StepContext, StepResult
    from recipes.quantize.ladder import Bench, Rung
    from recipes.quantize.run import Source
    from recipes.quantize.schema import QuantizeSpec

#: Files of the source that belong to every result, whatever a backend wrote.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)

#: What a worker may import of ours: copied into the work folder, never our site-packages.
_SHARED = ("engine/errors.py", "recipes/measuring")


@dataclass(frozen=True)
class Worker:
    """A started backend with what every call needs."""

    process: BackendProcess
    spec: BackendSpec
    common: dict[str, Any]


def run_backend(ctx: StepContext, spec: QuantizeSpec) -> StepResult:
    """Quantize with the backend the recipe chose.

    Raises:
        MissingPart: its environment can't be made.
        StepFailed: the backend failed, with its own reason.
        DoesNotFit: it would run, or ran, out of memory.
    """
    from recipes.quantize.bench import prepare_bench
    from recipes.quantize.run import finish, open_source

    backend = find(spec.chosen_backend)
    source = open_source(ctx, spec)
    notes = list(source.notes)
    _check_room(ctx, spec, source)
    store = BackendStore(ctx.paths)
    if not store.ready(backend):
        ctx.phase(f"making the environment of {backend.name}")
    python = store.ensure(backend, lambda text: ctx.note(text))
    bench, _importance, found = prepare_bench(ctx, spec, source, None)
    notes += found
    shared = share_code(ctx.work_dir / "shared")
    log = ctx.work_dir / f"{backend.name}.log"
    request = _request(ctx, spec, source, notes)
    with BackendProcess(backend, python, log, threads=ctx.threads, extra_path=(shared,)) as process:
        rung = _make(ctx, spec, Worker(process, backend, request), source, bench, notes)
    return finish(ctx, spec, source, [rung], notes)


def _check_room(ctx: StepContext, spec: QuantizeSpec, source: Source) -> None:
    """Refuse before an environment is made (a GPU's memory is the backend's own affair).

    Raises:
        DoesNotFit: the backend would run out of memory.
    """
    import psutil

    from recipes.gguf.checkpoint import open_checkpoint

    if ctx.device != "cpu":
        return
    weights = sum(f.stat().st_size for f in source.folder.glob("*.safetensors"))
    config = open_checkpoint(source.folder).config
    check_room(spec, config, weights, psutil.virtual_memory().available)


def share_code(folder: Path) -> Path:
    """Copy the modules a worker imports of ours; returns the folder for its search path."""
    import engine

    root = Path(engine.__file__).parents[1]
    shutil.rmtree(folder, ignore_errors=True)
    for name in _SHARED:
        place, target = root / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(place, target)
    for package in ("engine", "recipes"):
        (folder / package / "__init__.py").write_text("")
    return folder


def _request(
    ctx: StepContext, spec: QuantizeSpec, source: Source, notes: list[str]
) -> dict[str, Any]:
    from recipes.gguf.checkpoint import open_checkpoint
    from recipes.quantize.importance import calibration_stream

    size = spec.group_size
    if size == "auto":
        size = group_size(in_features(open_checkpoint(source.folder).config)) or -1
    request: dict[str, Any] = {
        "source": str(source.folder),
        "format": spec.format,
        "bits": spec.bits,
        "group_size": size,
        "device": ctx.device,
        "threads": max(ctx.threads, 1),
        "seed": ctx.seed,
        "options": dict(spec.options),
    }
    if spec.format not in UNCALIBRATED:
        calibration = calibration_stream(ctx, spec, source)
        window = spec.calibration.window
        rows = cut("calibration", calibration.ids, len(calibration.ids), window).windows
        path = ctx.work_dir / "calibration.json"
        save_json(path, [list(row) for row in rows])
        request["calibration"] = str(path)
        notes.append(f"calibrated on {calibration.describe()}")
    return request


def _make(
    ctx: StepContext,
    spec: QuantizeSpec,
    worker: Worker,
    source: Source,
    bench: Bench,
    notes: list[str],
) -> Rung:
    from recipes.quantize.ladder import Rung, load_rung

    level = level_name(spec, worker.common["group_size"])
    folder = ctx.work_dir / "levels"
    folder.mkdir(exist_ok=True)
    record = folder / f"{level}.json"
    if (done := load_rung(record, folder)) is not None:
        return done
    result = folder / level
    facts = _quantize(ctx, worker, source, result)
    memory = int(facts["peak_memory_bytes"])
    measured, proof = _measure(ctx, worker, result, bench, spec)
    if not proof.passed:
        raise StepFailed(f"{level} does not behave like its source", why=proof.problems[0])
    size = sum(f.stat().st_size for f in result.iterdir() if f.suffix == ".safetensors")
    rung = Rung(
        level,
        result,
        size,
        8 * size / bench.parameters,
        {m.text: m for m in measured},
        proof.to_json(),
        proof.tokens_per_s,
        memory,
        float(facts["seconds"]),
        (),
        {
            **facts["settings"],
            "backend": worker.spec.name,
            "versions": facts["versions"],
            "lock_sha256": "" if worker.spec.main else worker.spec.lock_sha256,
        },
    )
    save_json(record, rung.to_json())
    return rung


def level_name(spec: QuantizeSpec, size: int) -> str:
    """``gptq-4bit-g64`` and the like."""
    if spec.format in ("gptq", "awq", "hqq"):
        group = f"g{size}" if size > 0 else "column"
        return f"{spec.format}-{spec.bits}bit-{group}"
    return spec.format


def show_events(ctx: StepContext) -> Callable[[dict[str, Any]], None]:
    """What a worker tells, as the step's own events."""

    def show(event: dict[str, Any]) -> None:
        if "phase" in event:
            ctx.phase(str(event["phase"]))
        elif "total" in event:
            ctx.progress(event["done"], event["total"], event.get("unit", "steps"))
        elif "note" in event:
            ctx.note(str(event["note"]))

    return show


def _call(ctx: StepContext, worker: Worker, action: str, params: dict[str, Any]) -> dict[str, Any]:
    try:
        return worker.process.call(
            action, {**worker.common, **params}, show_events(ctx), lambda: ctx.should_stop
        )
    except InterruptedError:
        ctx.raise_stopped()
        raise
    except DoesNotFit as error:
        if not error.hint:
            error.hint = "lower calibration.tokens and calibration.window, or use a smaller model"
        raise


def _quantize(ctx: StepContext, worker: Worker, source: Source, result: Path) -> dict[str, Any]:
    facts_file = result.with_name(result.name + ".facts.json")
    if result.is_dir() and facts_file.is_file():
        facts: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
        return facts
    partial = result.with_name(result.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(result, ignore_errors=True)
    # what a backend needs to go on after an interruption; it outlives the attempt
    scratch = result.with_name(result.name + ".scratch")
    scratch.mkdir(exist_ok=True)
    facts = _call(ctx, worker, "quantize", {"output": str(partial), "scratch": str(scratch)})
    shutil.rmtree(scratch, ignore_errors=True)
    normalize(partial, source.folder)
    save_json(facts_file, facts)
    partial.rename(result)
    return facts


def normalize(folder: Path, source: Path) -> None:
    """Give a backend's output the names and tokenizer files every loader expects.

    Raises:
        StepFailed: there are no safetensors weights in it.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StepFailed("the backend wrote no safetensors weights", why=str(_names(folder)))
    if len(weights) == 1 and weights[0].name != "model.safetensors":
        weights[0].rename(folder / "model.safetensors")
        for index in folder.glob("*.safetensors.index.json"):
            index.unlink()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)


def _names(folder: Path) -> Sequence[str]:
    return sorted(f.name for f in folder.iterdir()) if folder.is_dir() else []


def _measure(
    ctx: StepContext, worker: Worker, result: Path, bench: Bench, spec: QuantizeSpec
) -> tuple[list[Measured], Proof]:
    found = _call(
        ctx,
        worker,
        "measure",
        {
            "folder": str(result),
            "references": str(ctx.work_dir),
            "n_vocab": bench.references[0].n_vocab,
            "texts": [
                {"name": r.windows.name, "windows": r.windows.windows} for r in bench.references
            ],
            "prompts": [a.prompt for a in bench.answers],
            "count": spec.eval.prompt_tokens,
            "stops": bench.stops,
        },
    )
    measured = [Measured(**m) for m in found["measured"]]
    allowed = max(LOSSLESS_GAP, NOISE_FACTOR * measured[0].noise)
    cases = tuple(
        judge(a, given, allowed) for a, given in zip(bench.answers, found["answers"], strict=True)
    )
    problems = tuple(c.describe(allowed) for c in cases if not c.accepted)
    # tokenizer and template files are the source's own, byte for byte
    return measured, Proof(cases, allowed, True, True, True, float(found["tokens_per_s"]), problems)
