"""What a run leaves behind: the artifact with tokenizer and template, its card, its lineage."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from engine.errors import OutOfSpace
from engine.worker.context import StepResult
from recipes.finetune.trainer import is_full_disk
from recipes.loading import base_artifact, write_model
from recipes.loading.quiet import quiet_libraries

if TYPE_CHECKING:
    from engine.data.report import DataReport
    from engine.data.source import DataLocation
    from recipes.finetune.session import Session


_PEAKED = {True: "", False: ", reached before training, which stayed below"}


@dataclass(frozen=True)
class Outcome:
    """A finished run. Losses in nats per token; memory in bytes."""

    model: Any
    steps: int
    loss: float
    eval_loss: float | None
    tokens_per_s: float
    tokens_seen: int
    trainable: int
    parameters: int
    peak_memory_bytes: int
    estimated_memory_bytes: int = 0
    """What the fit estimate said of training (0: none was made)."""
    peak_in_training: bool = True
    """False where the peak was reached before: while a packaged base was unpacked."""
    report: DataReport | None = None
    sources: Sequence[DataLocation] = ()
    samples: Sequence[dict[str, str]] = ()
    losses: Sequence[tuple[int, float]] = ()
    eval_losses: Sequence[tuple[int, float]] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    """Further numbers of the method: accuracy, reward margin."""


def publish_outcome(session: Session, outcome: Outcome) -> StepResult:
    """Write, publish and describe the result.

    Raises:
        OutOfSpace: the disk is full; checkpoints are kept and a retry publishes without training.
    """
    ctx = session.ctx
    ctx.phase("publishing")
    try:
        return _publish(session, outcome)
    except Exception as error:
        if not is_full_disk(error) or isinstance(error, OutOfSpace):
            raise
        raise OutOfSpace(
            "no space to publish the trained model",
            why=str(error),
            hint="free space, then `modelops-tui jobs retry`: the last checkpoint is complete, "
            "nothing is trained again",
        ) from error


def _publish(session: Session, outcome: Outcome) -> StepResult:
    ctx, spec = session.ctx, session.spec
    registry = ctx.registry()
    adapter = hasattr(outcome.model, "peft_config")
    folder = ctx.work_dir / "output"
    rmtree(folder, ignore_errors=True)
    write_output(session, outcome, folder)
    parents = [("base", base_artifact(session.location, ctx.paths, registry))]
    parents += [("dataset", s.manifest) for s in outcome.sources if s.manifest is not None]
    metrics = numbers(outcome)
    view = registry.publish(
        name=f"{ctx.job_name}.{ctx.step}",
        artifact_type="adapter" if adapter else "model",
        files=folder,
        parents=parents,
        metrics=metrics,
        card=model_card(session, outcome),
        license=session.location.root.license,
        run=run_facts(session, outcome),
        key=f"{ctx.job_id}/{ctx.step}/model",
    )
    ctx.event("artifact", manifest=view.id, artifact_type=view.artifact_type, name=view.name)
    outputs: dict[str, Any] = {
        "model": view.id,
        "loss": outcome.loss,
        "tokens_per_s": outcome.tokens_per_s,
    }
    if outcome.eval_loss is not None:
        outputs["eval_loss"] = outcome.eval_loss
    if adapter and spec.train.merge:
        outputs["merged"] = publish_merged(session, outcome, view.id)
    rmtree(folder, ignore_errors=True)
    table = result_table(session, outcome)
    ctx.event("table", **table)
    reports = [table]
    if outcome.report is not None:
        reports.insert(0, outcome.report.table())
    return StepResult(outputs, tuple(reports))


def write_output(session: Session, outcome: Outcome, folder: Path) -> None:
    """Weights, tokenizer with chat template, data report and samples, into ``folder``."""
    folder.mkdir(parents=True)
    with quiet_libraries():
        if hasattr(outcome.model, "peft_config"):
            outcome.model.save_pretrained(folder, safe_serialization=True)
            _name_base(folder / "adapter_config.json", session)
            (folder / "README.md").unlink(missing_ok=True)
            session.tokenizer.save_pretrained(folder)
        else:
            write_model(outcome.model, session.tokenizer, folder)
    if outcome.report is not None:
        _write_json(folder / "data_report.json", outcome.report.to_json())
    _write_json(folder / "samples.json", list(outcome.samples))
    _write_json(
        folder / "training.json",
        {
            "recipe": session.spec.model_dump(mode="json"),
            "losses": list(outcome.losses),
            "eval_losses": list(outcome.eval_losses),
            "metrics": numbers(outcome),
        },
    )
    for file in folder.iterdir():
        file.chmod(0o644)


def _name_base(file: Path, session: Session) -> None:
    """A name others can resolve, instead of a path in this machine's cache."""
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = session.location.root.name
    _write_json(file, config)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def publish_merged(session: Session, outcome: Outcome, adapter: str) -> str:
    """Merge the adapter into its base (sum in fp32) and publish the whole model."""
    import torch

    from engine.models import resolve_model
    from recipes.loading import merge_adapter

    ctx = session.ctx
    ctx.phase("merging")
    folder = ctx.work_dir / "merged"
    rmtree(folder, ignore_errors=True)
    merge_adapter(resolve_model(adapter, ctx.paths), folder, ctx.paths, torch.bfloat16)
    view = ctx.registry().publish(
        name=f"{ctx.job_name}.{ctx.step}.merged",
        artifact_type="model",
        files=folder,
        parents=[("adapter", adapter)],
        metrics=numbers(outcome),
        card=model_card(session, outcome, merged=True),
        license=session.location.root.license,
        run=run_facts(session, outcome),
        key=f"{ctx.job_id}/{ctx.step}/merged",
    )
    rmtree(folder, ignore_errors=True)
    ctx.event("artifact", manifest=view.id, artifact_type=view.artifact_type, name=view.name)
    return str(view.id)


def numbers(outcome: Outcome) -> dict[str, float]:
    """The run's figures as the registry keeps them (finite numbers only)."""
    found: dict[str, float] = {
        "loss": outcome.loss,
        "steps": float(outcome.steps),
        "tokens_per_s": round(outcome.tokens_per_s, 1),
        "tokens_seen": float(outcome.tokens_seen),
        "trainable_parameters": float(outcome.trainable),
        "peak_memory_bytes": float(outcome.peak_memory_bytes),
        **outcome.metrics,
    }
    if outcome.estimated_memory_bytes:
        found["estimated_memory_bytes"] = float(outcome.estimated_memory_bytes)
    if outcome.eval_loss is not None:
        found["eval_loss"] = outcome.eval_loss
    return {key: value for key, value in found.items() if math.isfinite(value)}


def run_facts(session: Session, outcome: Outcome) -> dict[str, Any]:
    """Who made this, from what, with which code: kept in the manifest."""
    ctx = session.ctx
    return {
        "job": ctx.job_id,
        "step": ctx.step,
        "recipe_sha256": ctx.recipe_sha256,
        "method": session.spec.train.method,
        "base": session.location.name,
        "data": [source_name(source) for source in outcome.sources],
        "seed": session.spec.seed,
        "precision": session.precision.name,
        "device": ctx.device,
        "threads": ctx.threads,
        "attempts": ctx.attempt,
        **shared_among(session),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
    }


def shared_among(session: Session) -> dict[str, Any]:
    """Of a run on several processes: how many, and how the model was spread."""
    if session.group.size == 1:
        return {}
    return {"processes": session.group.size, "strategy": session.group.strategy}


def source_name(source: DataLocation) -> str:
    """``name@version``, or the name where there is no version."""
    return f"{source.name}@{source.version}" if source.version else source.name


def result_table(session: Session, outcome: Outcome) -> dict[str, Any]:
    """What came out, as a ``table`` event."""
    rows: list[list[Any]] = [
        ["method", session.spec.train.method],
        ["steps", outcome.steps],
        ["loss (mean of the last 10 steps)", round(outcome.loss, 4)],
    ]
    if outcome.eval_loss is not None:
        rows.append(["held-out loss", round(outcome.eval_loss, 4)])
    rows += [[key, round(value, 4)] for key, value in outcome.metrics.items()]
    rows += [
        ["trained parameters", f"{outcome.trainable:,} of {outcome.parameters:,}"],
        ["tokens seen", f"{outcome.tokens_seen:,}"],
        ["tokens/s", round(outcome.tokens_per_s, 1)],
        ["peak memory", _mib(outcome.peak_memory_bytes) + _PEAKED[outcome.peak_in_training]],
    ]
    if outcome.estimated_memory_bytes:
        rows.append(["estimated memory", _mib(outcome.estimated_memory_bytes)])
    return {"title": "Fine-tuning", "columns": ["what", "value"], "rows": rows, "notes": []}


def model_card(session: Session, outcome: Outcome, merged: bool = False) -> str:
    """A card that says only what happened."""
    spec, ctx = session.spec, session.ctx
    kind = "merged model" if merged else "LoRA adapter"
    if not hasattr(outcome.model, "peft_config") and not merged:
        kind = "model"
    lines = [
        f"# {ctx.job_name}",
        "",
        f"A {kind} made from {session.location.root.name} by {spec.train.method} "
        f"on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "## Training",
        "",
        f"- data: {', '.join(source_name(s) for s in outcome.sources) or 'see the lineage'}",
        f"- {outcome.steps} steps, batch {spec.train.batch} x {spec.train.accumulate}, "
        f"learning rate {spec.learning_rate:g} ({spec.train.schedule}), seed {spec.seed}",
        f"- {outcome.trainable:,} of {outcome.parameters:,} parameters trained in "
        f"{session.precision.name}; {outcome.tokens_seen:,} tokens seen",
    ]
    if hasattr(outcome.model, "peft_config"):
        lines.append(f"- rank {spec.train.rank}, alpha {spec.lora_alpha:g}, {spec.train.targets}")
    if session.group.size > 1:
        lines.append(f"- batch {spec.train.batch} in each of {session.group.size} processes")
    if ctx.attempt > 1:
        lines.append(f"- finished in attempt {ctx.attempt}")
    lines += ["", "## Results", "", f"- training loss {outcome.loss:.4f} nats per token"]
    if outcome.eval_loss is not None:
        lines.append(
            f"- held-out loss {outcome.eval_loss:.4f}, perplexity {math.exp(outcome.eval_loss):.2f}"
        )
    lines += [f"- {key}: {value:.4f}" for key, value in outcome.metrics.items()]
    lines += _data_lines(outcome)
    for sample in list(outcome.samples)[:3]:
        lines += ["", "## Sample", "", f"> {_one_line(sample['prompt'])}", ""]
        lines += [f"- before: {_one_line(sample['before'])}"]
        lines += [f"- after: {_one_line(sample.get('after', ''))}"]
    return "\n".join(lines) + "\n"


def _data_lines(outcome: Outcome) -> list[str]:
    report = outcome.report
    if report is None:
        return []
    lines = [
        "",
        "## Data",
        "",
        f"- {report.used} of {report.rows} rows used, {report.tokens:,} tokens, "
        f"{report.trained_tokens:,} of them learned",
    ]
    return lines + [f"- {text}" for text in report.warnings()]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
