"""``modelops-tui run``: check a recipe, submit it, follow it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.api import Workbench
from modelops_tui.cli.output import Format, out
from modelops_tui.cli.wording import duration, size

if TYPE_CHECKING:
    from engine.recipe.plan import Plan
    from engine.types.recipes import Estimate


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name of the library.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set train.lr=1e-4."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Submit and leave; the job goes on.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the resolved recipe and what it needs; run nothing."),
    ] = False,
    priority: Annotated[int, typer.Option(help="Higher goes first.", min=-100, max=100)] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute every step, whatever is remembered.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the job as JSON.")] = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Write every event as a line of JSON.")
    ] = False,
) -> None:
    """Run a recipe: check it, submit it, and follow it until it ends."""
    from modelops_tui.cli import follow

    out.choose(as_json=as_json, jsonl=jsonl)
    bench = Workbench()
    plan = bench.recipes.prepare(bench.recipes.find(recipe), sets or ())
    for warning in plan.warnings:
        out.diagnostic(warning)
    if dry_run:
        _show_plan(bench, plan)
        return
    view = bench.jobs.submit(plan, priority, fresh=fresh)
    # the job is durable now, whatever happens to this process: ctrl+c detaches, from here on
    try:
        out.say(f"submitted {view.id}")
        if detach:
            if out.format is Format.TABLE:
                out.line(view.id)
            else:
                out.json_line(asdict(view))
        bench.system.ensure_engine()
        if detach:
            out.say(f"hint: `modelops-tui jobs follow {view.id}`")
            return
        over = follow.watch(bench, view.id, jsonl)
    except KeyboardInterrupt:
        raise typer.Exit(follow.detached(view.id)) from None
    raise typer.Exit(follow.ended(bench, over, stream=jsonl))


def _show_plan(bench: Workbench, plan: Plan) -> None:
    estimates = bench.recipes.estimate(plan)
    if out.format is not Format.TABLE:
        out.json(
            {
                "plan": bench.recipes.resolved(plan),
                "estimates": {
                    name: asdict(found) if found is not None else None
                    for name, found in estimates.items()
                },
            }
        )
        return
    for text in bench.recipes.plan_text(plan).splitlines():
        out.line(text)
    out.line()
    rows = [_estimate_row(name, found) for name, found in estimates.items()]
    out.table(("step", "memory", "disk", "time"), rows)
    for name, found in estimates.items():
        if found is None:
            continue
        parts = ", ".join(f"{part} {size(count)}" for part, count in found.parts.items())
        if parts:
            out.line(f"  {name}: {parts}")
        for note in found.notes:
            out.line(f"  {name}: {note}")
    out.say(f"{plan.name} is valid: {len(plan.steps)} step(s); nothing was submitted")


def _estimate_row(name: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"step": name, "memory": "not known before it runs", "disk": None, "time": None}
    return {
        "step": name,
        "memory": size(found.memory_bytes),
        "disk": size(found.disk_bytes),
        "time": duration(found.seconds),
    }
