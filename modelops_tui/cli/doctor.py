"""``modelops-tui doctor``: what is there, what is missing, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from engine.api import Workbench
from modelops_tui.cli.output import ExitCode, Format, out

_MARKS = {"ok": "ok", "warning": "warn", "problem": "FAIL"}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Look at everything that jobs depend on; say what to do where something is wrong."""
    out.choose(as_json=as_json)
    checks = Workbench().system.doctor()
    problems = [check for check in checks if check.status == "problem"]
    if out.format is not Format.TABLE:
        out.json([asdict(check) for check in checks])
    else:
        longest = max(len(check.name) for check in checks)
        for check in checks:
            mark = _MARKS.get(check.status, check.status)
            out.line(f"{mark:<4}  {check.name:<{longest}}  {check.detail}")
            if check.hint and check.status != "ok":
                out.line(f"{'':<4}  {'':<{longest}}  hint: {check.hint}")
    if problems:
        raise typer.Exit(ExitCode.ERROR)
