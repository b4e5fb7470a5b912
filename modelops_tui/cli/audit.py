"""``modelops-tui audit``: who changed what and when, from the signed log."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.api import Workbench
from modelops_tui.cli.output import out

app = typer.Typer(no_args_is_help=True, help="The tamper-evident history of the registry.")

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Csv = Annotated[bool, typer.Option("--csv", help="Write CSV.")]


@app.command()
def log(
    name: Annotated[str | None, typer.Option("--name", help="Only this name.")] = None,
    ref: Annotated[str | None, typer.Option("--ref", help="Only this artifact.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="publish, promote, ...")] = None,
    since: Annotated[str | None, typer.Option(help="From this time (UTC, 2026-01-31).")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 100,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The signed events, newest first; those without effect too, with the reason."""
    out.choose(as_json=as_json, as_csv=as_csv)
    events = Workbench().artifacts.audit(
        name=name, ref=ref, event_type=event_type, since=since, until=until, limit=limit
    )
    rows = [{**vars(e), "key": e.key[:16]} for e in events]
    out.rows(("time", "who", "key", "text", "verdict"), rows, empty="nothing happened yet")


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="The artifact's name.")],
    which: Annotated[str | None, typer.Argument(metavar="STAGE", help="Only this stage.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="At this time (UTC, 2026-01-31).")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Which version held a stage from when to when, and who said so."""
    out.choose(as_json=as_json, as_csv=as_csv)
    artifacts = Workbench().artifacts
    rows = [vars(change) for change in artifacts.stage_history(name, which, at)]
    if not rows:
        artifacts.resolve(name)  # a slip in the name is no empty history
    nothing = f"{name} held no stage" if which is None else f"{name} never held {which}"
    out.rows(("stage", "version", "since", "until", "who", "note"), rows, empty=nothing)


@app.command()
def verify(as_json: Json = False) -> None:
    """Check the whole log: signatures, chains, and that a rebuild gives the same state."""
    out.choose(as_json=as_json)
    report = Workbench().artifacts.fsck()
    faults = [vars(f) for f in report.faults if f.kind in ("event", "trust", "index")]
    out.rows(("kind", "subject", "text"), faults)
    if faults:
        raise typer.Exit(6)
    out.say(f"{report.events} events: signatures, chains and state are right")
