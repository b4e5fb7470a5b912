"""``modelops-tui engine``: start, stop, status, restart, install, log."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from engine.api import Workbench
from modelops_tui.cli.output import out
from modelops_tui.cli.wording import moment

app = typer.Typer(help="The local engine: it runs the jobs and outlives every screen.")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def start(as_json: Json = False) -> None:
    """Start the engine unless one runs already."""
    status = Workbench().system.ensure_engine()
    _show(as_json, asdict(status), f"the engine runs (pid {status.pid})")


@app.command()
def stop() -> None:
    """Ask the engine to leave. Running jobs go on; the next engine adopts them."""
    if Workbench().system.stop_engine():
        out.say("the engine has left; running jobs go on without it")
    else:
        out.say("no engine runs")


@app.command()
def restart(as_json: Json = False) -> None:
    """Replace the engine by one of this version. Running jobs go on."""
    status = Workbench().system.restart_engine()
    _show(as_json, asdict(status), f"the engine runs (pid {status.pid})")


@app.command()
def status(as_json: Json = False) -> None:
    """Show whether the engine runs, what it holds and what it costs."""
    view = Workbench().system.engine_status()
    record = asdict(view)
    if not as_json:
        record["lanes"] = ", ".join(f"{lane.name}: {lane.job_id or 'free'}" for lane in view.lanes)
        if view.started is not None:
            record["started"] = moment(view.started)
        if view.memory_bytes is not None:
            record["memory_bytes"] = f"{view.memory_bytes / 2**20:.0f} MiB"
    out.choose(as_json=as_json)
    out.record({key: value for key, value in record.items() if value not in (None, "")})
    if not view.running:
        out.say("hint: `modelops-tui engine start`; `run` and the screen start it by themselves")


@app.command()
def install() -> None:
    """Run the engine as a systemd user service (where there is a user bus)."""
    path = Workbench().system.install_engine()
    out.say(f"installed and enabled {path}")


@app.command()
def log(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 50,
) -> None:
    """Print the end of the engine's own log."""
    path = Workbench().paths.engine_log
    if not path.exists():
        out.say(f"there is no log yet ({path})")
        return
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in text[-lines:]:
        out.line(line)


def _show(as_json: bool, record: dict[str, object], text: str) -> None:
    if as_json:
        out.choose(as_json=True)
        out.record(record)
    else:
        out.say(text)
