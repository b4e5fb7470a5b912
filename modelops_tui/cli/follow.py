"""Following a job from a shell: one progress line, the notes on the way, the reports at the end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from engine.api import Workbench
from engine.errors import ModelOpsError, Outdated
from engine.types.jobs import ENDED_STATES, JobState, JobView, StepView
from modelops_tui.cli.output import ExitCode, Format, out
from modelops_tui.cli.wording import duration, number

if TYPE_CHECKING:
    from engine.telemetry.watch import Growth

#: How often the job's state is looked at (4 Hz; events are seen at once), the least time between
#: two looks at events, and how often the engine's pulse is felt.
_TICK_S = 0.25
_GULP_S = 0.02
_PULSE_S = 3.0

_EXITS = {
    JobState.SUCCEEDED: ExitCode.OK,
    JobState.FAILED: ExitCode.JOB_FAILED,
    JobState.CANCELLED: ExitCode.JOB_CANCELLED,
    JobState.PAUSED: ExitCode.JOB_PAUSED,
}


#: Failures that running the same job again ends in again.
_FINAL = ("gate", Outdated.code)


@dataclass
class ProgressLine:
    """What the one line says, kept up by the events."""

    step: str = ""
    phase: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Note what an event tells."""
        if event.get("step") and event["step"] != self.step:
            self.step, self.phase, self.values = str(event["step"]), "", {}
        kind = event.get("type")
        if kind == "phase":
            self.phase = str(event.get("name", ""))
            self.values = {}
        elif kind in ("progress", "metrics"):
            self.values.update({k: v for k, v in event.items() if v is not None})

    def text(self) -> str:
        """``train  training  12/60 steps  loss 2.14  1,204 tokens/s  3 min 20 s left``."""
        values = self.values
        parts = [self.step, self.phase]
        if "done" in values:
            total = f"/{number(values['total'])}" if values.get("total") else ""
            unit = values.get("unit") or ("steps" if values.get("type") == "metrics" else "")
            parts.append(f"{number(values['done'])}{total} {unit}".rstrip())
        if "loss" in values:
            parts.append(f"loss {values['loss']:.4g}")
        if "tokens_per_s" in values:
            parts.append(f"{values['tokens_per_s']:,.0f} tokens/s")
        if "eta_s" in values:
            parts.append(f"{duration(values['eta_s'])} left")
        return "  ".join(part for part in parts if part)


def follow(bench: Workbench, job_id: str, *, stream: bool = False) -> ExitCode:
    """Follow a job until it ends, is paused, or ctrl+c detaches.

    Args:
        bench: the workbench.
        job_id: the job's full id.
        stream: write its events to stdout as JSON lines.
    """
    try:
        view = watch(bench, job_id, stream)
    except KeyboardInterrupt:
        return detached(job_id)
    return ended(bench, view, stream=stream)


def ended(bench: Workbench, view: JobView, *, stream: bool = False) -> ExitCode:
    """Show how a job that was watched ended, or that it was paused; its exit status."""
    out.status_clear()
    finish(bench, view, stream=stream)
    return _EXITS.get(view.state, ExitCode.ERROR)


def detached(job_id: str) -> ExitCode:
    """Say that ctrl+c left the job as it is, and how to come back to it."""
    out.status_end()
    out.say(f"detached: job {job_id} goes on without this shell")
    out.say(f"hint: `modelops-tui jobs follow {job_id}` comes back to it")
    out.say(f"hint: `modelops-tui jobs cancel {job_id}` stops it")
    return ExitCode.DETACHED


def watch(bench: Workbench, job_id: str, stream: bool) -> JobView:
    """Tell what a job does until it ends or is paused; ctrl+c comes out of it."""
    view = bench.jobs.get(job_id)
    with bench.jobs.growth(job_id) as growth:
        return _until_over(bench, view, stream, growth)


def _until_over(bench: Workbench, view: JobView, stream: bool, growth: Growth) -> JobView:
    job_id = view.id
    line = ProgressLine()
    offset, told, seen = 0, "", -1
    pulse = time.monotonic()
    while True:
        changed = bench.jobs.changed()
        if changed != seen:
            seen = changed
            view = bench.jobs.get(job_id)
        page = bench.jobs.events(job_id, offset)
        offset = page.next_offset
        for event in page.events:
            line.take(event)
            if stream:
                out.json_line(event)
            _narrate(event)
        if view.state in (*ENDED_STATES, JobState.PAUSED) and not page.events:
            return view
        if view.state in (JobState.QUEUED, JobState.STOPPING):
            waiting = f"{view.state}: {view.reason}" if view.reason else str(view.state)
            if waiting != told:
                told = waiting
                out.status(waiting)
        elif text := line.text():
            out.status(text)
        if time.monotonic() - pulse > _PULSE_S:
            pulse = time.monotonic()
            _keep_engine(bench)
        if growth.wait(_TICK_S):
            # a chatty step is shown in gulps
            time.sleep(_GULP_S)


def _keep_engine(bench: Workbench) -> None:
    """Start an engine when the last one died: runs go on without one, but nothing new begins."""
    if bench.system.engine_status().running:
        return
    try:
        bench.system.ensure_engine()
    except ModelOpsError as error:
        out.status(f"no engine runs: {error}")
    else:
        out.status_clear()
        out.say("the engine was gone; another one has taken over")


def _narrate(event: dict[str, Any]) -> None:
    kind = event.get("type")
    if kind == "begun":
        reason = f" ({event['reason']})" if event.get("reason") else ""
        _aside(f"step {event.get('step')} begins{reason}")
    elif kind == "note":
        prefix = "warning: " if event.get("level") == "warning" else ""
        _aside(f"{prefix}{event.get('text', '')}")
    elif kind == "ended":
        reason = f": {event['reason']}" if event.get("reason") else ""
        _aside(f"step {event.get('step')} {event.get('state', 'ended')}{reason}")


def _aside(text: str) -> None:
    out.status_clear()
    out.say(text)


# -- the end ----------------------------------------------------------------------------------


def finish(bench: Workbench, view: JobView, *, stream: bool = False) -> None:
    """Show how a job ended: its tables, what it made, or why it failed."""
    steps = bench.jobs.steps(view.id)
    if out.format is Format.JSON:
        out.json(job_record(bench, view, steps))
        return
    if stream or out.format is Format.JSONL:
        out.json_line({"type": "job", **job_record(bench, view, steps)})
        return
    show_reports(bench, view, steps)
    took = duration(view.ended - view.started) if view.ended and view.started else ""
    out.say(f"job {view.id} {view.state}" + (f" in {took}" if took else ""))
    if view.state is JobState.FAILED:
        _explain_failure(bench, view)
    elif view.state is JobState.PAUSED:
        out.say(f"hint: `modelops-tui jobs resume {view.id}` lets it go on")
    elif view.reason and view.state is JobState.CANCELLED:
        out.say(f"  {view.reason}")


def job_record(bench: Workbench, view: JobView, steps: tuple[StepView, ...]) -> dict[str, Any]:
    """A job with its steps, their outputs and reports, and the matrix's table."""
    record = asdict(view)
    record["steps"] = [asdict(step) for step in steps]
    record["matrix"] = matrix_table(bench, view, steps)
    return record


def matrix_table(
    bench: Workbench, view: JobView, steps: tuple[StepView, ...]
) -> dict[str, Any] | None:
    """The sweep's table, or None for a job without a matrix."""
    if not any("@" in step.name for step in steps):
        return None
    from engine.recipe.picks import table

    return table(bench.jobs.plan(view.id), {step.name: step.outputs for step in steps})


def show_reports(bench: Workbench, view: JobView, steps: tuple[StepView, ...]) -> None:
    """The tables that the steps left, the matrix's, and the artifacts, on stdout."""
    for step in steps:
        for report in step.report:
            show_table(report, f"{step.name}: " if len(steps) > 1 else "")
    swept = matrix_table(bench, view, steps)
    if swept is not None:
        show_table(swept)
    made = [
        {"step": step.name, "output": name, "artifact": value}
        for step in steps
        for name, value in step.outputs.items()
        if isinstance(value, str) and value.startswith("sha256:")
    ]
    if made:
        out.line("artifacts")
        out.table(("step", "output", "artifact"), made)


def show_table(report: Any, prefix: str = "") -> None:
    """One report table with its title and notes."""
    columns = [str(column) for column in report.get("columns", ())]
    rows = [dict(zip(columns, row, strict=False)) for row in report.get("rows", ())]
    out.line(f"{prefix}{report.get('title', '')}")
    if rows:
        out.table(columns, rows, fold=True)
    if report.get("chart"):
        from engine.api.charts import scatter

        for line in scatter(report["chart"], min(out.columns() or 100, 100)):
            out.line(line)
    for note in report.get("notes") or ():
        out.line(f"  {note}")
    out.line()


def _explain_failure(bench: Workbench, view: JobView) -> None:
    error = view.error or {}
    out.say(f"error: {error.get('what') or view.reason or 'the job failed'}")
    if error.get("why"):
        out.say(f"  {error['why']}")
    hint = error.get("hint") or f"`modelops-tui jobs log {view.id}` shows its output"
    out.say(f"hint: {hint}")
    if error.get("code") not in _FINAL:
        out.say(f"hint: `modelops-tui jobs retry {view.id}` goes on from the last checkpoint")
