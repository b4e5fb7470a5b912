"""The console script: the options before the command, and errors turned into exit codes."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from engine.errors import ModelOpsError
from modelops_tui import __version__
from modelops_tui.cli.lazy import LazyGroup
from modelops_tui.cli.output import ExitCode, out

app = typer.Typer(
    name="modelops-tui",
    cls=LazyGroup,
    help="Fine-tune, quantize, ask documents, evaluate, sign, promote and serve language models. "
    "Without a command it opens the full-screen workbench.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    try:
        app()
    except ModelOpsError as error:
        out.fail(error)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        # a folder that can't be made, a full disk, no permission: the machine's state, no bug
        out.fail(ModelOpsError(f"{error.filename} can't be used", why=error.strerror))
