"""``modelops-tui remote``: places to share the registry with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from engine.api import Workbench
from modelops_tui.cli.output import Format, out

if TYPE_CHECKING:
    from engine.types.artifacts import SyncProgress, SyncReport

app = typer.Typer(no_args_is_help=True, help="Sync the registry with a folder or any S3.")

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Name = Annotated[str, typer.Argument(metavar="REMOTE", help="The remote's name.")]
Url = Annotated[
    str, typer.Argument(metavar="URL", help="s3://bucket/prefix?endpoint=http://host, or a folder.")
]
Only = Annotated[str | None, typer.Option("--only", help="Only files of names like this glob.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Tell what would move; change nothing.")]


@app.command()
def add(name: Name, url: Url, as_json: Json = False) -> None:
    """Probe a place and keep it as a remote."""
    out.choose(as_json=as_json)
    view = Workbench().artifacts.remote_add(name, url)
    out.record(dataclasses.asdict(view))


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """The remotes of this registry."""
    out.choose(as_json=as_json)
    rows = [dataclasses.asdict(view) for view in Workbench().artifacts.remotes()]
    out.rows(
        ("name", "url", "shared", "last_push", "last_pull", "note"),
        rows,
        empty="no remote yet: modelops-tui remote add NAME URL",
    )


@app.command()
def probe(name: Name, as_json: Json = False) -> None:
    """Ask a server again whether it honours conditional writes."""
    out.choose(as_json=as_json)
    out.record(dataclasses.asdict(Workbench().artifacts.remote_probe(name)))


@app.command("rm")
def remove(name: Name) -> None:
    """Forget a remote; what lies there stays."""
    Workbench().artifacts.remote_remove(name)
    out.say(f"{name} is forgotten")


@app.command()
def push(name: Name = "origin", dry_run: Dry = False, as_json: Json = False) -> None:
    """Bring a remote up to date."""
    out.choose(as_json=as_json)
    _report(Workbench().artifacts.push(name, dry_run=dry_run, progress=_progress), "pushed")


@app.command()
def pull(
    name: Name = "origin",
    only: Only = None,
    dry_run: Dry = False,
    allow_expired: Annotated[
        bool, typer.Option("--allow-expired", help="Believe an expired checkpoint.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take in what a remote has, everything verified."""
    out.choose(as_json=as_json)
    report = Workbench().artifacts.pull(
        name, only=only, dry_run=dry_run, allow_expired=allow_expired, progress=_progress
    )
    _report(report, "pulled")


@app.command()
def clone(
    url: Url,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", help="The root its holder's `keys show` prints.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What to call the remote.")] = "origin",
    only: Only = None,
    as_json: Json = False,
) -> None:
    """Make a remote's registry the one of this (empty) state directory."""
    out.choose(as_json=as_json)
    artifacts = Workbench().artifacts
    report = artifacts.clone(url, name=name, fingerprint=fingerprint, only=only, progress=_progress)
    _report(report, "cloned")
    if fingerprint is None:
        root = artifacts.device()["root"]
        out.say(f"its root is {root}: compare it with what its holder's `keys show` prints")


@app.command()
def status(name: Name = "origin", as_json: Json = False) -> None:
    """What a push and a pull would move."""
    out.choose(as_json=as_json)
    out.record(dataclasses.asdict(Workbench().artifacts.sync_status(name)))


@app.command()
def diff(name: Name = "origin", as_json: Json = False) -> None:
    """Every event that is only here (push) or only there (pull)."""
    out.choose(as_json=as_json)
    rows = [vars(change) for change in Workbench().artifacts.sync_diff(name)]
    out.rows(("direction", "time", "who", "text"), rows)


def _progress(step: SyncProgress) -> None:
    share = 100 * step.done // max(step.total, 1)
    out.status(f"{step.phase} {share}% of {step.total} bytes: {step.file}")


def _report(report: SyncReport, verb: str) -> None:
    out.status_end()
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(report))
        return
    verb = f"would be {verb}" if report.dry_run else verb
    out.line(
        f"{verb}: {report.events} events, {report.manifests} manifests, {report.blobs} blobs, "
        f"{report.size_bytes} bytes in {report.seconds:.1f} s"
    )
    for name in report.partial:
        out.say(f"in part only: {name}")
