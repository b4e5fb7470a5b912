"""The console script: assembles the command groups and turns errors into exit codes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated

import typer

from engine.errors import ModelOpsError
from modelops_tui import __version__
from modelops_tui.cli.output import ExitCode, out

app = typer.Typer(
    name="modelops-tui",
    help="Fine-tune, quantize, ask documents, evaluate, sign, promote and serve language models. "
    "Without a command it opens the full-screen workbench.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: command group -> module with ``app: typer.Typer``
GROUPS = {
    "recipe": "modelops_tui.cli.recipe",
    "jobs": "modelops_tui.cli.jobs",
    "data": "modelops_tui.cli.data",
    "models": "modelops_tui.cli.models",
    "backends": "modelops_tui.cli.backends",
    "rag": "modelops_tui.cli.rag",
    "serve": "modelops_tui.cli.serve",
    "market": "modelops_tui.cli.market",
    "remote": "modelops_tui.cli.remote",
    "keys": "modelops_tui.cli.keys",
    "audit": "modelops_tui.cli.audit",
    "engine": "modelops_tui.cli.engine",
    "gpu": "modelops_tui.cli.gpu",
    "config": "modelops_tui.cli.config",
    "plugin": "modelops_tui.cli.plugin",
}

#: single command -> module with a function ``command``
COMMANDS = {
    "run": "modelops_tui.cli.run",
    "chat": "modelops_tui.cli.chat",
    "gateway": "modelops_tui.cli.gateway",
    "doctor": "modelops_tui.cli.doctor",
}


def _assemble() -> None:
    for name, module in COMMANDS.items():
        if importlib.util.find_spec(module) is not None:
            app.command(name)(importlib.import_module(module).command)
    for name, module in GROUPS.items():
        if importlib.util.find_spec(module) is not None:
            app.add_typer(importlib.import_module(module).app, name=name)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    state: Annotated[
        str | None,
        typer.Option("--state", help="State directory (default: $MODELOPS_HOME).", metavar="DIR"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No narration on stderr.")] = False,
    ascii_only: Annotated[
        bool, typer.Option("--ascii", help="Draw the screens with ASCII only.")
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Show the workbench in a browser (loopback, token).")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    """Options that come before the command."""
    if version:
        out.line(f"modelops-tui {__version__}")
        raise typer.Exit(ExitCode.OK)
    if state:
        os.environ["MODELOPS_HOME"] = os.path.abspath(os.path.expanduser(state))
    out.quiet = quiet
    if ctx.invoked_subcommand is None:
        from modelops_tui.launch import launch

        raise typer.Exit(launch(ascii_only=ascii_only, web=web))


def main() -> None:
    """Run the command line; every ``ModelOpsError`` becomes its message and its exit status."""
    _assemble()
    try:
        app()
    except ModelOpsError as error:
        out.fail(error)
    except BrokenPipeError:
        # the reader of our stdout left (``| head``): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
