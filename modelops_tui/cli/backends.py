"""``modelops-tui backends``: libraries that live in locked environments of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.api import Workbench
from modelops_tui.cli.output import ExitCode, Format, out

if TYPE_CHECKING:
    from engine.backends import BackendState

app = typer.Typer(
    help="Isolated backends (GPTQModel, llmcompressor, ...): list, install, remove, doctor.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Name = Annotated[str, typer.Argument(help="Backend, as `backends list` names it.")]


def _row(state: BackendState) -> dict[str, Any]:
    return {
        "name": state.spec.name,
        "state": state.state,
        "version": state.version,
        "formats": " ".join(state.spec.formats),
        "status": state.spec.status,
        "mb": round(state.bytes / 1e6) if state.bytes else None,
        "detail": state.detail or state.spec.note,
    }


_COLUMNS = ("name", "state", "version", "formats", "status", "mb", "detail")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show every backend, whether its environment is made, and what it takes."""
    out.choose(as_json=as_json)
    out.rows(_COLUMNS, [_row(s) for s in Workbench().backends.list()], titles={"mb": "MB"})


@app.command("install")
def install(
    name: Name,
    again: Annotated[
        bool, typer.Option("--again", help="Make it anew even if it is sound.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a backend's environment now, instead of at its first use."""
    out.choose(as_json=as_json)
    state = Workbench().backends.install(name, out.say, again=again)
    out.record(_row(state))


@app.command("remove")
def remove(name: Name, as_json: Json = False) -> None:
    """Delete a backend's environments; they are made again when needed."""
    out.choose(as_json=as_json)
    freed = Workbench().backends.remove(name)
    if out.format is Format.JSON:
        out.json({"name": name, "freed_bytes": freed})
        return
    out.say(f"{name}: {freed / 1e6:.0f} MB freed" if freed else f"{name} had no environment")


@app.command("doctor")
def doctor(
    name: Annotated[str | None, typer.Argument(help="Backend (default: all).")] = None,
    as_json: Json = False,
) -> None:
    """Import each installed backend in its environment, and say what is broken."""
    out.choose(as_json=as_json)
    states = Workbench().backends.doctor(name)
    out.rows(_COLUMNS, [_row(s) for s in states], titles={"mb": "MB"})
    broken = [s.spec.name for s in states if s.state == "broken"]
    for each in broken:
        out.say(f"hint: modelops-tui backends install {each} --again")
    if broken:
        raise typer.Exit(ExitCode.MISSING_PART)
