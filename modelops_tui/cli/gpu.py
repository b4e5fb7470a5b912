"""``modelops-tui gpu``: the devices, their memory and who holds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from engine.api import Workbench
from modelops_tui.cli.output import out

app = typer.Typer(help="GPUs (or the CPU) and who holds their memory.")

_GIB = 1 << 30


@app.command("list")
def list_devices(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the devices jobs can run on."""
    devices = Workbench().system.devices()
    out.choose(as_json=as_json)
    if as_json:
        out.json([asdict(device) for device in devices])
        return
    out.rows(
        ("lane", "name", "memory", "free", "load", "holders"),
        [
            {
                "lane": device.lane,
                "name": device.name,
                "memory": f"{device.memory_total / _GIB:.1f} GiB",
                "free": f"{device.memory_free / _GIB:.1f} GiB",
                "load": None if device.utilization is None else f"{device.utilization:.0%}",
                "holders": ", ".join(holder.label for holder in device.holders) or None,
            }
            for device in devices
        ],
    )
    if all(device.uuid is None for device in devices):
        out.say("no GPU answers: jobs run on the CPU (`modelops-tui doctor` says why)")
