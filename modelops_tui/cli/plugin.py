"""``modelops-tui plugin``: what is plugged in, what is broken, and a template for a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Plugins: list them, make a new one.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """Everything plugged in; a broken plugin is named with its reason."""
    from engine.plugins import overview

    out.choose(as_json=as_json)
    rows = []
    for group in overview():
        rows += [{**asdict(plugin), "state": "ok", "reason": ""} for plugin in group.plugins]
        rows += [{**asdict(broken), "state": "left out"} for broken in group.broken]
    out.rows(["point", "name", "package", "state", "reason"], rows, empty="nothing is plugged in")


@app.command()
def points(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """What a plugin can bring, and the shape of each."""
    from engine.plugins import POINTS

    out.choose(as_json=as_json)
    out.rows(["name", "group", "summary", "signature"], [asdict(point) for point in POINTS])


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the package: my-metrics.")],
    folder: Annotated[Path | None, typer.Option(help="Where (default: ./NAME).")] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="What it brings: kind, metric, judge, reward, reader, exporter, serving, backend,"
            " or all (default: kind and metric).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Make a package that works, with tests that pass as they are."""
    from modelops_tui.cli.plugin_template import DEFAULT, PARTS, write_template

    out.choose(as_json=as_json)
    parts = list(PARTS) if "all" in (with_ or ()) else with_ or list(DEFAULT)
    made = write_template(name, folder or Path(name), parts)
    if out.format is not Format.TABLE:
        out.json({"folder": str(made), "parts": parts})
        return
    out.say(f"made {made}\nhint: pip install -e {made}[test] && pytest {made}")
