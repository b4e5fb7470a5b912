"""The command that each screen says does the same can be given as it stands."""

from __future__ import annotations

import shlex
from typing import Any

from modelops_tui.cli.lazy import load
from screens.actions import SCREEN_NAMES
from screens.detail_screen import DetailScreen
from tests.screens.conftest import make_app, until
from tests.screens.seeded import Seed


def parsed(line: str) -> None:
    """Take a command line apart as the program would, without doing it."""
    program, *words = shlex.split(line)
    assert program == "modelops-tui"
    if not words:
        return
    command: Any = load(words.pop(0))
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


async def test_twins_of_every_screen_and_pane(seed: Seed) -> None:
    app = make_app(seed)
    seen = set()
    async with app.run_test(size=(120, 36)) as pilot:
        for number, name in enumerate(SCREEN_NAMES, 1):
            await pilot.press("escape", str(number))
            await until(pilot, lambda n=name: getattr(app.screen, "NAME", "") == n, name)
            screen: Any = app.screen
            if not isinstance(screen, DetailScreen):
                seen.add(screen.command_twin())
                continue
            await until(pilot, lambda s=screen: s._loaded, f"{name} is read")
            keys = [row.key for row in screen.rows][:4]
            for pane, _ in screen.PANES:
                screen.deck.show(pane)
                seen.add(screen.command_twin())
                for key in keys:
                    screen.table.go_to(key)
                    seen.add(screen.command_twin())
    assert len(seen) > 15
    for line in sorted(seen):
        parsed(line)
