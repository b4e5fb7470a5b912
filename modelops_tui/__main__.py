"""The console script: straight to the screens where no command is given, else the command line.

The screens need none of what the commands do: going by Typer would cost 60 ms before the first
frame.
"""

from __future__ import annotations

import os
import sys

_SCREENS_ONLY = {"--ascii", "--web"}


def main() -> None:
    """Open the workbench, or run a command."""
    _open_closed_streams()
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


def _open_closed_streams() -> None:
    """Give stdin, stdout and stderr that were closed (``>&-``) the null device.

    Else the next file that is opened, a database for one, would become the stdout of every process
    that is started from here.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
