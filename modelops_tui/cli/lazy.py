"""Command groups that are imported when they are asked for: one command costs one module."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperGroup

#: command or group -> module; a group's module has ``app: typer.Typer``, a command's ``command``.
COMMANDS = {
    "run": "modelops_tui.cli.run",
    "recipe": "modelops_tui.cli.recipe",
    "jobs": "modelops_tui.cli.jobs",
    "data": "modelops_tui.cli.data",
    "models": "modelops_tui.cli.models",
    "backends": "modelops_tui.cli.backends",
    "rag": "modelops_tui.cli.rag",
    "chat": "modelops_tui.cli.chat",
    "serve": "modelops_tui.cli.serve",
    "gateway": "modelops_tui.cli.gateway",
    "market": "modelops_tui.cli.market",
    "remote": "modelops_tui.cli.remote",
    "keys": "modelops_tui.cli.keys",
    "audit": "modelops_tui.cli.audit",
    "engine": "modelops_tui.cli.engine",
    "gpu": "modelops_tui.cli.gpu",
    "config": "modelops_tui.cli.config",
    "plugin": "modelops_tui.cli.plugin",
    "doctor": "modelops_tui.cli.doctor",
}


def available() -> list[str]:
    """The commands whose module is there, in the order of the help."""
    return [name for name, module in COMMANDS.items() if importlib.util.find_spec(module)]


def load(name: str) -> Any:
    """The click command of a group or a single command."""
    module = importlib.import_module(COMMANDS[name])
    if hasattr(module, "app"):
        group = module.app
        # plain help everywhere: readable without colour, and rich is not imported for it
        group.rich_markup_mode = None
        for registered in (*group.registered_commands, *group.registered_groups):
            registered.rich_help_panel = None
        command: Any = typer.main.get_group(group)
    else:
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name)(module.command)
        command = typer.main.get_command(single)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """The root of the command line. Unknown names get a "did you mean"."""

    def list_commands(self, ctx: Any) -> list[str]:
        return available()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS or importlib.util.find_spec(COMMANDS[cmd_name]) is None:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = load(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from engine.recipe.nearest import nearest

            close = nearest(args[0], available())
            hint = f"Did you mean {close!r}?" if close else "See `modelops-tui --help`."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)
