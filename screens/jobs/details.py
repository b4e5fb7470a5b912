"""The panes of a job as lines: overview, chart, recipe, artifacts, report, samples, history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.types.jobs import AttemptView, JobState, JobView, StepView
from screens.jobs.rows import fraction, reason
from screens.jobs.series import JobSeries
from screens.prose import fact_columns, heading, paragraph, report_tables, table, toml_lines
from screens.text import (
    UNICODE,
    Line,
    bar,
    duration,
    number,
    size,
    state_span,
    wall_time,
)

NOTHING: list[Line] = [[("no job is chosen", "dim")]]


@dataclass
class JobDetail:
    """Everything the panes show of one job."""

    job: JobView | None = None
    steps: tuple[StepView, ...] = ()
    attempts: tuple[AttemptView, ...] = ()
    series: JobSeries = field(default_factory=JobSeries)
    recipe: str = ""
    plan: str = ""
    now: float = 0.0
    ascii_only: bool = False
    height: int = 20


def overview(detail: JobDetail, width: int) -> list[Line]:
    """State, steps and the newest figures; why it failed, and what to do."""
    job = detail.job
    if job is None:
        return NOTHING
    lines: list[Line] = [
        [state_span(job.state, UNICODE), ("  " + job.name, "bold"), (f"  {job.id}", "dim")]
    ]
    why = reason(job)
    if why:
        lines += paragraph(why, width, "bad" if job.state is JobState.FAILED else "warn")
    lines += _error(job, width)
    lines += _figures(job, detail, width)
    lines.append([])
    lines += _steps(detail, width)
    lines += _next_moves(job)
    return lines


def _error(job: JobView, width: int) -> list[Line]:
    error = job.error or {}
    lines: list[Line] = []
    for key in ("what", "why"):
        text = str(error.get(key) or "")
        if text and text not in (job.reason or ""):
            lines += paragraph(text, width, "bad")
    if error.get("hint"):
        lines += paragraph(f"hint: {error['hint']}", width, "accent")
    return lines


def _figures(job: JobView, detail: JobDetail, width: int) -> list[Line]:
    newest = detail.series.newest
    share = fraction(job)
    lines: list[Line] = []
    if share is not None and job.ended is None:
        lines.append(
            [("progress       ", "dim"), (bar(share, 24, UNICODE), "accent"), (f" {share:.0%}", "")]
        )
    done = ""
    if job.last_done is not None and job.ended is None:
        total = f" of {number(job.last_total)}" if job.last_total else ""
        done = f"{number(job.last_done)}{total} {job.last_unit or ''}"
    began = job.started or job.created
    took = duration((job.ended or detail.now) - began) if job.started else None
    pairs: list[tuple[str, object]] = [
        ("done", done),
        ("left in step", duration(job.last_eta_s) if job.last_eta_s is not None else None),
        ("running for" if job.ended is None else "took", took),
        ("loss", _loss(job, newest)),
        ("tokens/s", f"{job.last_rate:.0f}" if job.last_rate is not None else None),
        ("memory", size(job.last_memory_bytes) if job.last_memory_bytes else None),
        ("learning rate", newest.get("learning_rate")),
        ("checkpoints", _checkpoints(detail.series)),
        ("attempts", job.attempt if job.attempt > max(1, _begun(detail.steps)) else None),
        ("lane", job.lane if job.lane not in ("", "auto") else None),
        ("submitted", wall_time(job.created)),
        ("ended", wall_time(job.ended) if job.ended else None),
        ("from", job.source_path),
    ]
    return lines + fact_columns(pairs, width)


def _loss(job: JobView, newest: dict[str, Any]) -> str | None:
    if job.last_loss is None:
        return None
    held_out = newest.get("eval_loss")
    extra = f"   held out {held_out:.4f}" if isinstance(held_out, float) else ""
    return f"{job.last_loss:.4f}{extra}"


def _begun(steps: Sequence[StepView]) -> int:
    """Steps that took an attempt each: more attempts than these mean that one was tried again."""
    return sum(1 for step in steps if step.started is not None and not step.memo_of)


def _checkpoints(series: JobSeries) -> str | None:
    if not series.checkpoints:
        return None
    last = f", the last at {series.last_checkpoint:g}" if series.last_checkpoint is not None else ""
    return f"{series.checkpoints}{last}"


def _steps(detail: JobDetail, width: int) -> list[Line]:
    lines: list[Line] = []
    if not detail.steps:
        return lines
    longest = max(12, *(len(step.name) for step in detail.steps))
    lines.append([(f"{'step':<{longest}}  {'kind':<9} {'state':<12} {'took':>8}  result", "head")])
    for step in detail.steps:
        glyph, style = state_span(step.state, UNICODE)
        took = ""
        if step.started:
            took = duration((step.ended or detail.now) - step.started)
        lines.append(
            [
                (f"{step.name:<{longest}}  ", "bold" if step.state is JobState.RUNNING else ""),
                (f"{step.kind:<9} ", "dim"),
                (f"{glyph:<12} ", style),
                (f"{took:>8}  ", ""),
                (_result(step), "bad" if step.state is JobState.FAILED else "dim"),
            ]
        )
    return lines


def _result(step: StepView) -> str:
    if step.memo_of:
        return f"as remembered from {step.memo_of}"
    if step.reason:
        return step.reason
    figures = [
        f"{name.removesuffix('_bytes')} {size(value) if name.endswith('_bytes') else number(value)}"
        for name, value in step.outputs.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    return "  ".join(figures[:5])


def _next_moves(job: JobView) -> list[Line]:
    moves = {
        JobState.FAILED: "r runs it again (finished steps and checkpoints are kept); tab: the log",
        JobState.CANCELLED: "r runs it again from its last checkpoint; d deletes it",
        JobState.PAUSED: "p lets it go on from its checkpoint",
        JobState.QUEUED: "+ moves it forward, p holds it, x cancels it",
        JobState.RUNNING: "p pauses it (a checkpoint is saved), x cancels it; q leaves: it goes on",
    }
    text = moves.get(job.state)
    return [[], [(text, "dim")]] if text else []


def chart(detail: JobDetail, width: int) -> list[Line]:
    """The loss curve of the step that reported last, as high as the pane is."""
    if detail.job is None:
        return NOTHING
    from screens.widgets.loss_chart import loss_chart

    series = detail.series
    if not series.steps:
        return [[("no loss was reported yet", "dim")], *_remembered(detail)]
    names = series.steps
    height = max(6, (detail.height - len(names)) // len(names))
    lines: list[Line] = []
    for step in names:
        curve, held_out = series.curve(step), series.eval_points(step)
        last = f"{curve[-1][1]:.4f}" if curve else "-"
        legend: Line = [(f"{step} ", "bold"), (f"loss {last}  {len(curve)} points", "dim")]
        if held_out:
            legend += [("   o ", "warn"), (f"held out {held_out[-1][1]:.4f}", "dim")]
        lines.append(legend)
        lines += loss_chart(
            curve or held_out, width, height, marks=held_out, ascii_only=detail.ascii_only
        )
    return lines


def _remembered(detail: JobDetail) -> list[Line]:
    """Where the events of a step stand that did not have to run again."""
    found = [(step.name, step.memo_of) for step in detail.steps if step.memo_of]
    return [
        [(f"{name} was not run again: {memo} has its curve and samples", "dim")]
        for name, memo in found
    ]


def recipe(detail: JobDetail, width: int) -> list[Line]:
    """The recipe as written, and the plan as frozen at submit."""
    if detail.job is None:
        return NOTHING
    lines = (
        toml_lines(detail.recipe) if detail.recipe else [[("the recipe's file is gone", "warn")]]
    )
    if detail.plan:
        lines += [*heading("Resolved, as frozen at submit"), *toml_lines(detail.plan)]
    return lines


def artifacts(detail: JobDetail, width: int) -> list[Line]:
    """What the steps made."""
    rows: list[Sequence[Any]] = []
    for step in detail.steps:
        for name, value in step.outputs.items():
            if isinstance(value, str) and value.startswith("sha256:"):
                rows.append((f"{step.name}.{name}", value))
    for event in detail.series.artifacts:
        manifest = str(event.get("manifest", ""))
        if manifest and manifest not in {row[1] for row in rows}:
            rows.append((f"{event.get('step', '')}.{event.get('name', '')}", manifest))
    if not rows:
        return [[("no artifact was made yet", "dim")]]
    lines = table(("output", "manifest"), rows, width, "key")
    return [*lines, [], [("4 opens the registry: signature, lineage, files, promotion", "dim")]]


def report(detail: JobDetail, width: int) -> list[Line]:
    """Tables the steps left for their reader."""
    tables = [item for step in detail.steps for item in step.report]
    if not tables:
        tables = detail.series.tables
    if not tables:
        return [[("no step has left a report yet", "dim")]]
    return report_tables(tables, width)


def samples(detail: JobDetail, width: int) -> list[Line]:
    """Generations before and after."""
    if not detail.series.samples:
        return [[("no sample was generated yet", "dim")], *_remembered(detail)]
    lines: list[Line] = []
    for event in detail.series.samples:
        lines += [[("prompt", "head")], *paragraph(str(event.get("prompt", "")), width, "", "  ")]
        for name, style in (("before", "dim"), ("after", "good")):
            if event.get(name) is not None:
                lines += [[(name, "head")], *paragraph(str(event[name]), width, style, "  ")]
        lines.append([])
    return lines


def history(detail: JobDetail, width: int) -> list[Line]:
    """Attempts and what was noted on the way."""
    rows = [
        (
            a.number,
            a.step,
            a.state,
            wall_time(a.began),
            duration((a.ended or detail.now) - a.began) if a.began else None,
            _exit(a),
        )
        for a in detail.attempts
    ]
    lines = table(("try", "step", "state", "began", "took", "how it ended"), rows, width)
    lines += heading("Events")
    for event in detail.series.notes:
        kind = str(event.get("type", ""))
        text = (
            event.get("text")
            or event.get("name")
            or event.get("reason")
            or event.get("state")
            or ""
        )
        if kind == "checkpoint":
            text = f"at {number(event.get('done'))}"
        style = "warn" if event.get("level") == "warning" else ""
        moment = wall_time(_seconds(event.get("t")))[11:]
        lines += paragraph(
            f"{moment}  {event.get('step') or '':<10} {kind:<10} {text}", width, style
        )
    return lines


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _exit(attempt: AttemptView) -> str:
    record = attempt.exit or {}
    if record.get("signal"):
        return f"signal {record['signal']}"
    return f"exit {record['code']}" if record.get("code") is not None else ""


def plan_text(plan: dict[str, Any]) -> str:
    """The frozen plan, step by step, in the look of TOML."""
    out = [f"sha256 = {json.dumps(plan.get('sha256', ''))}"]
    for step in plan.get("steps", ()):
        out += ["", f"[{step.get('name', '')}]", f"kind = {json.dumps(step.get('kind', ''))}"]
        out += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in (step.get("params") or {}).items()
            if value is not None
        ]
    return "\n".join(out)
