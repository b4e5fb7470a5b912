"""The console script: straight to the screens where no command is given, else the command line.

The screens need none of what the commands do: going by Typer would cost 60 ms before the first
frame.
"""

from __future__ import annotations

import sys

_SCREENS_ONLY = {"--ascii", "--web"}


def main() -> None:
    """Open the workbench, or run a command."""
    given = sys.argv[1:]
    if not set(given) <= _SCREENS_ONLY:
        from modelops_tui.cli.main import main as command_line

        command_line()
        return
    from engine.errors import ModelOpsError
    from modelops_tui.cli.output import out
    from modelops_tui.launch import launch

    try:
        sys.exit(launch(ascii_only="--ascii" in given, web="--web" in given))
    except ModelOpsError as error:
        out.fail(error)


if __name__ == "__main__":
    main()
