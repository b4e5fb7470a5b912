"""``models compare`` and ``jobs compare``: two artifacts, or two runs, side by side."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from engine.api import Workbench
from modelops_tui.cli.output import Format, out


def compare(
    left: Annotated[str, typer.Argument(metavar="LEFT", help="NAME, NAME@STAGE, NAME@VERSION…")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="What it is compared with.")],
    same: Annotated[bool, typer.Option("--all", help="Also what is alike in both.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Two artifacts side by side: metrics, how they were made, files."""
    out.choose(as_json=as_json)
    found = Workbench().artifacts.compare(left, right)
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(found))
        return
    names = [f"{view.name}@{view.version}" for view in (found.left, found.right)]
    if names[0] == names[1]:
        names = [view.manifest.removeprefix("sha256:")[:12] for view in (found.left, found.right)]
    titles = {"left": names[0], "right": names[1]}
    metrics: list[dict[str, Any]] = [
        {
            "metric": name,
            "left": a,
            "right": b,
            "change": b - a if a is not None and b is not None else None,
        }
        for name, a, b in found.metrics
        if same or a != b
    ]
    parts = [
        (("metric", "left", "right", "change"), metrics),
        (
            ("fact", "left", "right"),
            [{"fact": k, "left": a, "right": b} for k, a, b in found.facts if same or a != b],
        ),
        (
            ("file", "left", "right", "same"),
            [
                {"file": path, "left": a, "right": b, "same": "yes" if alike else "no"}
                for path, a, b, alike in found.files
                if same or not alike
            ],
        ),
    ]
    shown = [(columns, rows) for columns, rows in parts if rows]
    for number, (columns, rows) in enumerate(shown):
        if number:
            out.line()
        out.rows(columns, rows, titles=titles)
    if not shown:
        out.say("nothing differs (--all shows what is alike)")


def compare_jobs(
    left: Annotated[str, typer.Argument(metavar="LEFT", help="Job id, or its beginning.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="What it is compared with.")],
    same: Annotated[bool, typer.Option("--all", help="Also figures that are alike.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Two runs side by side: settings that differ, losses, outputs, time, memory."""
    out.choose(as_json=as_json)
    found = Workbench().jobs.compare(left, right)
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(found))
        return
    titles = {"left": found.left.id, "right": found.right.id}
    figures = [
        {
            "figure": name,
            "left": a,
            "right": b,
            "change": b - a if a is not None and b is not None else None,
        }
        for name, a, b in found.figures
        if same or a != b
    ]
    artifacts = [
        {"artifact": name, "left": (a or "")[:19], "right": (b or "")[:19]}
        for name, a, b in found.artifacts
        if same or a != b
    ]
    settings = [{"setting": key, "left": a, "right": b} for key, a, b in found.settings]
    parts = (
        (("setting", "left", "right"), settings),
        (("figure", "left", "right", "change"), figures),
        (("artifact", "left", "right"), artifacts),
    )
    shown = [(columns, rows) for columns, rows in parts if rows]
    for number, (columns, rows) in enumerate(shown):
        if number:
            out.line()
        out.rows(columns, rows, titles=titles)
    if not shown:
        out.say("nothing differs (--all shows what is alike)")
