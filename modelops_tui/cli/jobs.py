"""``modelops-tui jobs``: what runs, what waits, what it said, and how to stop it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput, Conflict
from engine.types.jobs import ACTIVE_STATES, ENDED_STATES, EVENT_TYPES, JobState, JobView
from modelops_tui.cli import follow as following
from modelops_tui.cli.comparing import compare_jobs
from modelops_tui.cli.output import Format, out
from modelops_tui.cli.wording import duration, moment, number

app = typer.Typer(help="Jobs: list, follow, cancel, pause, resume, retry.", no_args_is_help=True)

app.command("compare")(compare_jobs)

Job = Annotated[str, typer.Argument(help="Job id, its number, or the beginning of its id.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]

_TICK_S = 0.25
_LOG_BLOCK = 1 << 16


@app.command("list")
def list_(
    text: Annotated[str, typer.Argument(help="Only jobs whose name or kind contains it.")] = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only in this state (repeatable).")
    ] = None,
    active: Annotated[bool, typer.Option("--active", "-a", help="Only jobs not yet over.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 30,
    before: Annotated[str | None, typer.Option(help="Continue a list: its last key.")] = None,
    as_json: Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write lines of JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV.")] = False,
) -> None:
    """List jobs, newest first."""
    out.choose(as_json=as_json, jsonl=jsonl, as_csv=as_csv)
    states = _states(state or [])
    if active:
        states |= ACTIVE_STATES
    page = Workbench().jobs.list(states or None, text, limit, before)
    if out.format is not Format.TABLE:
        columns = (
            "id",
            "name",
            "kind",
            "state",
            "reason",
            "created",
            "started",
            "ended",
            "attempt",
        )
        out.rows(columns, [asdict(view) for view in page.jobs])
        return
    out.rows(
        ("id", "name", "state", "progress", "submitted", "took", "reason"),
        [_row(view) for view in page.jobs],
        empty="no job: `modelops-tui run quickstart` runs one",
    )
    if page.next_key is not None:
        out.say(f"hint: more with `modelops-tui jobs list --before {page.next_key}`")


def _states(names: list[str]) -> set[JobState]:
    from engine.recipe.nearest import did_you_mean

    known = [state.value for state in JobState]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise BadInput(f"there is no state {wrong[0]!r}", hint=did_you_mean(wrong[0], known))
    return {JobState(name) for name in names}


def _row(view: JobView) -> dict[str, Any]:
    end = view.ended or (time.time() if view.started else None)
    return {
        "id": view.id,
        "name": view.name,
        "state": view.state.value,
        "progress": _progress(view),
        "submitted": moment(view.created),
        "took": duration(end - view.started) if view.started and end else None,
        "reason": view.reason or None,
    }


def _progress(view: JobView) -> str | None:
    steps = f"{view.steps_done}/{view.steps_total}"
    if view.state in ENDED_STATES or view.last_done is None:
        return f"{steps} steps" if view.steps_total > 1 else None
    total = f"/{number(view.last_total)}" if view.last_total else ""
    now = f"{number(view.last_done)}{total} {view.last_unit or ''}".rstrip()
    return f"{view.step} {now}" if view.steps_total > 1 else now


@app.command()
def show(job: Job, as_json: Json = False) -> None:
    """Everything about one job: steps, attempts, reports, artifacts, the error."""
    out.choose(as_json=as_json)
    bench = Workbench()
    view = bench.jobs.get(job)
    steps = bench.jobs.steps(view.id)
    attempts = bench.jobs.attempts(view.id)
    if out.format is not Format.TABLE:
        record = following.job_record(bench, view, steps)
        record["attempts"] = [asdict(attempt) for attempt in attempts]
        out.json(record)
        return
    shown = _row(view)
    shown |= {
        "kind": view.kind,
        "recipe": view.source_path or "(text)",
        "sha256": view.recipe_sha256,
        "lane": view.lane,
        "folder": str(bench.paths.run_dir(view.id)),
    }
    out.record({key: value for key, value in shown.items() if value is not None})
    out.line()
    rows = [
        {
            "step": step.name,
            "kind": step.kind,
            "state": step.state.value,
            "attempts": step.attempts,
            "took": duration(step.ended - step.started) if step.started and step.ended else None,
            "reason": step.reason or None,
        }
        for step in steps
    ]
    out.table(("step", "kind", "state", "attempts", "took", "reason"), rows)
    out.line()
    following.show_reports(bench, view, steps)
    if view.error:
        for key in ("what", "why", "hint"):
            if view.error.get(key):
                out.line(f"{key}: {view.error[key]}")


@app.command()
def recipe(
    job: Job,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every key as it was frozen, as JSON.")
    ] = False,
) -> None:
    """The recipe of a job, as it was written."""
    bench = Workbench()
    view = bench.jobs.get(job)
    if resolved:
        out.json(bench.jobs.plan(view.id))
    else:
        out.raw(bench.jobs.recipe_path(view.id).read_text(encoding="utf-8"))


@app.command()
def log(
    job: Job,
    keep: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Only the last lines.")
    ] = None,
) -> None:
    """What a job printed, all attempts."""
    bench = Workbench()
    view = bench.jobs.get(job)
    path = bench.jobs.log_path(view.id)
    if not path.exists():
        out.say(f"there is no log yet ({path})")
        return
    with bench.jobs.growth(view.id) as growth, open(path, "rb") as file:
        if lines is not None:
            file.seek(_last_lines(file, lines))
        over = False
        try:
            while True:
                while block := file.read(_LOG_BLOCK):
                    # a hole is where the middle of a very long log was given back to the disk
                    out.raw(block.replace(b"\0", b"").decode("utf-8", "replace"))
                if not keep or over:
                    return
                # what it printed before it was over is read once more
                over = bench.jobs.get(view.id).state in ENDED_STATES
                if not over:
                    growth.wait(_TICK_S)
        except KeyboardInterrupt:
            return


def _last_lines(file: Any, count: int) -> int:
    """The offset at which the last ``count`` lines begin."""
    position = file.seek(0, 2)
    found = 0
    if count == 0:
        return int(position)
    while position > 0:
        start = max(0, position - _LOG_BLOCK)
        file.seek(start)
        block = file.read(position - start)
        for offset in range(len(block) - 1, -1, -1):
            last = start + offset == file.seek(0, 2) - 1
            if block[offset] == 0x0A and not last:
                found += 1
                if found == count:
                    return int(start + offset + 1)
        position = start
    return 0


@app.command()
def events(
    job: Job,
    keep: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    kind: Annotated[str | None, typer.Option("--type", help="Only events of this type.")] = None,
) -> None:
    """The events of a job, a line of JSON each."""
    bench = Workbench()
    view = bench.jobs.get(job)
    if kind is not None:
        _known_type(bench, view, kind)
    offset = 0
    try:
        growth = bench.jobs.growth(view.id)
        while True:
            ended = bench.jobs.get(view.id).state in ENDED_STATES
            page = bench.jobs.events(view.id, offset)
            offset = page.next_offset
            for event in page.events:
                if kind is None or event.get("type") == kind:
                    out.json_line(event)
            if not page.events and (ended or not keep):
                return
            if not page.events:
                growth.wait(_TICK_S)
    except KeyboardInterrupt:
        return


def _known_type(bench: Workbench, view: JobView, kind: str) -> None:
    """Refuse a type that is neither one of ours nor in this job's events (a plugin's own)."""
    from engine.recipe.nearest import did_you_mean

    seen, offset = set(EVENT_TYPES), 0
    while kind not in seen and (page := bench.jobs.events(view.id, offset)).events:
        offset = page.next_offset
        seen |= {str(event.get("type")) for event in page.events}
    if kind not in seen:
        raise BadInput(
            f"there is no event type {kind!r}",
            hint=did_you_mean(kind, sorted(seen)),
        )


@app.command()
def follow(
    job: Job,
    as_json: Json = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Write every event as a line of JSON.")
    ] = False,
) -> None:
    """Follow a job until it ends; ctrl+c leaves it alone."""
    out.choose(as_json=as_json, jsonl=jsonl)
    bench = Workbench()
    view = bench.jobs.get(job)
    if view.state not in ENDED_STATES:
        bench.system.ensure_engine()
    raise typer.Exit(following.follow(bench, view.id, stream=jsonl))


@app.command()
def cancel(
    job: Job,
    now: Annotated[bool, typer.Option("--now", help="Kill it without the grace period.")] = False,
    as_json: Json = False,
) -> None:
    """Stop a job for good; what it checkpointed stays, and `retry` goes on from it."""
    bench = Workbench()
    view = bench.jobs.cancel(job, now=now)
    _carried_out(bench, view)
    _asked(view, as_json, "asked to stop")


@app.command()
def pause(job: Job, as_json: Json = False) -> None:
    """Save a checkpoint, free the device, keep the place in the queue."""
    bench = Workbench()
    view = bench.jobs.pause(job)
    _carried_out(bench, view)
    _asked(view, as_json, "asked to pause")


def _carried_out(bench: Workbench, view: JobView) -> None:
    """A job that runs is stopped by the engine: one must be there, even if it was killed."""
    if view.state is JobState.STOPPING:
        bench.system.ensure_engine()


@app.command()
def freeze(job: Job, as_json: Json = False) -> None:
    """Stop a running job's clock (SIGSTOP); it keeps its memory. `pause` frees it."""
    _freeze(job, as_json, thaw=False)


@app.command()
def thaw(job: Job, as_json: Json = False) -> None:
    """Let a frozen job go on."""
    _freeze(job, as_json, thaw=True)


def _freeze(job: str, as_json: bool, *, thaw: bool) -> None:
    out.choose(as_json=as_json)
    bench = Workbench()
    view = bench.jobs.get(job)
    if not bench.system.freeze(view.id, thaw=thaw):
        raise Conflict(f"job {view.id} does not run", why=f"it is {view.state}")
    if out.format is Format.JSON:
        out.json({**asdict(view), "frozen": not thaw})
        return
    out.say(f"job {view.id} {'goes on' if thaw else 'is frozen: it keeps its memory'}")


@app.command()
def resume(job: Job, as_json: Json = False) -> None:
    """Let a paused job go on."""
    bench = Workbench()
    view = bench.jobs.resume(job)
    bench.system.ensure_engine()
    _asked(view, as_json, "goes on")


@app.command()
def retry(job: Job, as_json: Json = False) -> None:
    """Run a failed or cancelled job again; finished steps and checkpoints are kept."""
    bench = Workbench()
    view = bench.jobs.retry(job)
    bench.system.ensure_engine()
    _asked(view, as_json, "runs again")


@app.command()
def priority(
    job: Job,
    value: Annotated[int, typer.Argument(help="Higher goes first.", min=-100, max=100)],
    as_json: Json = False,
) -> None:
    """Move a waiting job forward or back in the queue."""
    _asked(Workbench().jobs.set_priority(job, value), as_json, f"has priority {value}")


def _asked(view: JobView, as_json: bool, what: str) -> None:
    out.choose(as_json=as_json)
    if out.format is Format.JSON:
        out.json(asdict(view))
    else:
        out.say(f"job {view.id} {what}" + (f" ({view.reason})" if view.reason else ""))


@app.command()
def rm(
    jobs: Annotated[list[str], typer.Argument(help="Jobs that have ended.", metavar="JOB...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget ended jobs and remove their folders; published artifacts stay."""
    out.choose(as_json=as_json)
    bench = Workbench()
    views = [bench.jobs.get(job) for job in jobs]
    if not yes:
        if not sys.stdin.isatty():
            raise Conflict("nobody can be asked here", hint="add --yes")
        names = ", ".join(f"{view.id} ({view.name})" for view in views)
        typer.confirm(f"Remove {names}?", abort=True, err=True)
    for view in views:
        bench.jobs.delete(view.id)
        if out.format is not Format.JSON:
            out.say(f"job {view.id} is removed")
    if out.format is Format.JSON:
        out.json({"removed": [view.id for view in views]})
