"""``modelops-tui config``: the settings in ``config.toml``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import NotFound
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Settings: show, get, set, unset, path.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Key = Annotated[str, typer.Argument(help="For example engine.grace_s.")]


@app.command()
def show(
    text: Annotated[str, typer.Argument(help="Only keys that contain this.")] = "",
    as_json: Json = False,
) -> None:
    """Every setting with its value, what it means and what may stand there."""
    out.choose(as_json=as_json)
    found = [view for view in Workbench().system.setting_views() if text in view.key]
    if out.format is not Format.TABLE:
        out.json([asdict(view) for view in found])
        return
    for view in found:
        mark = "" if view.is_set else "  (default)"
        out.line(f"{view.key} = {_shown(view.value)}{mark}")
        out.line(f"  {view.description or view.expected}")


@app.command()
def get(key: Key, as_json: Json = False) -> None:
    """Print one setting."""
    out.choose(as_json=as_json)
    views = {view.key: view for view in Workbench().system.setting_views()}
    if key not in views:
        from engine.recipe.nearest import did_you_mean

        raise NotFound(f"there is no setting {key!r}", hint=did_you_mean(key, views))
    if out.format is not Format.TABLE:
        out.json(views[key].value)
    else:
        value = views[key].value
        out.line(value if isinstance(value, str) else _shown(value))


@app.command("set")
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(help="A TOML value; a bare word is text.")],
) -> None:
    """Write one setting; the file's comments stay."""
    bench = Workbench()
    bench.system.set_setting(key, value)
    out.say(f"{key} is set in {bench.paths.config}")
    if key.startswith("engine.") and bench.system.engine_status().running:
        out.say("hint: `modelops-tui engine restart` makes the engine read it; jobs go on")


@app.command()
def unset(key: Key) -> None:
    """Restore the default of one setting."""
    if Workbench().system.unset_setting(key):
        out.say(f"{key} has its default again")
    else:
        out.say(f"{key} was not set")


@app.command()
def path() -> None:
    """Print where the settings are."""
    out.line(str(Workbench().paths.config))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
