"""Jobs as rows of the list."""

from __future__ import annotations

from engine.types.jobs import JobState, JobView
from screens.text import Glyphs, Span, ago, bar, duration, state_span
from screens.widgets.paged_table import Column, Row

COLUMNS = (
    Column("job", 11, drop=2),
    Column("state", 11),
    Column("name", 0, weight=2, least=15),
    Column("kind", 9, drop=5),
    Column("step", 14, drop=4),
    Column("progress", 15),
    Column("step eta", 8, right=True),
    Column("loss", 7, right=True, drop=3),
    Column("rate", 7, right=True, drop=6),
    Column("age", 4, right=True, drop=7),
    Column("reason", 0, drop=1, weight=3, least=24),
)


def fraction(job: JobView) -> float | None:
    """How much of the job is done, its steps counted alike; None before anything is known."""
    if job.state is JobState.SUCCEEDED:
        return 1.0
    part = 0.0
    if job.last_done is not None and job.last_total:
        part = min(1.0, job.last_done / job.last_total)
    elif not job.steps_done:
        return None
    return (job.steps_done + part) / max(1, job.steps_total)


def progress(job: JobView, glyphs: Glyphs) -> Span:
    """A bar with its share in percent; empty where nothing is known."""
    share = fraction(job)
    if share is None or job.state is JobState.SUCCEEDED:
        return ("", "")
    style = "accent" if job.state is JobState.RUNNING else "dim"
    return (f"{bar(share, 10, glyphs)} {share * 100:3.0f}%", style)


def reason(job: JobView) -> str:
    """Why it is in this state, in one line: a wish not yet carried out comes first."""
    if job.want is not None and job.state in (JobState.RUNNING, JobState.STOPPING):
        return "pausing: saves a checkpoint" if job.want == "pause" else "cancelling"
    return job.reason or (job.last_message or "" if job.state is JobState.RUNNING else "")


def job_row(job: JobView, now: float, glyphs: Glyphs) -> Row:
    """One row; ``age`` is since the end of an ended job, since submit of the others."""
    steps = f"{job.step} {min(job.steps_done + 1, job.steps_total)}/{job.steps_total}"
    running = job.state is JobState.RUNNING
    bad = job.state is JobState.FAILED
    age = ago(job.ended or job.created, now)
    loss = f"{job.last_loss:.3f}" if job.last_loss is not None else ""
    rate = f"{job.last_rate:.0f}/s" if job.last_rate is not None and running else ""
    eta = duration(job.last_eta_s) if running and job.last_eta_s is not None else ""
    cells: tuple[Span, ...] = (
        (job.id, "dim"),
        state_span(job.state, glyphs),
        (job.name, "bold" if running else ""),
        (job.kind, "dim"),
        (steps if job.step and job.ended is None else "", "dim"),
        progress(job, glyphs),
        (eta.replace(" ", ""), ""),
        (loss, ""),
        (rate, "dim"),
        (age, "dim"),
        (reason(job), "bad" if bad else "warn" if job.state is JobState.QUEUED else "dim"),
    )
    order = (
        job.id,
        str(job.state),
        job.name.lower(),
        job.kind,
        steps,
        fraction(job),
        job.last_eta_s,
        job.last_loss,
        job.last_rate,
        -(job.ended or job.created),
        job.reason,
    )
    return Row(job.id, cells, job, order)
