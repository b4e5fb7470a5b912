"""The palette: every action that works here and every id on the screen, narrowed by writing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from screens.actions import ACTIONS, Action, shown
from screens.dialogs import ChoiceDialog
from screens.frame import WorkScreen
from screens.widgets.paged_table import Column, Row

if TYPE_CHECKING:
    from textual.widget import Widget

    from screens.app import WorkbenchApp

_COLUMNS = (
    Column("what", 0),
    Column("keys", 12, drop=1),
    Column("where", 14, drop=2),
)


def open_palette(app: WorkbenchApp) -> None:
    """Show it over the current screen."""
    if isinstance(app.screen, ChoiceDialog):
        return
    screen = app.screen
    calls: dict[str, Callable[[], None]] = {}
    rows = []
    for action in ACTIONS:
        target = _target(app, action)
        if target is None:
            continue
        keys = " ".join(shown(key) for key in action.keys.split(","))
        key = f"action:{action.id}"
        calls[key] = partial(_run, app, action, target)
        rows.append(Row(key, ((action.description, ""), (keys, "key"), (action.where, "dim"))))
    if isinstance(screen, WorkScreen):
        for number, (text, about, call) in enumerate(screen.palette_ids()):
            key = f"id:{number}"
            calls[key] = call
            rows.append(Row(key, ((text, "bold"), ("", ""), (about, "dim"))))

    def chosen(key: str | None) -> None:
        if key is not None:
            calls[key]()

    app.push_screen(ChoiceDialog("Palette", _COLUMNS, rows), chosen)


def _target(app: WorkbenchApp, action: Action) -> Widget | WorkbenchApp | None:
    """Who would carry out an action now; None where it makes no sense here."""
    if not action.palette:
        return None
    if action.where == "everywhere":
        return app
    if action.where == app.current_mode:
        return app.screen
    name = action.method.removeprefix("screen.")
    holder = app.screen if action.method.startswith("screen.") else app.focused
    return holder if holder is not None and hasattr(holder, f"action_{name}") else None


def _run(app: WorkbenchApp, action: Action, target: Widget | WorkbenchApp) -> None:
    app.call_later(app.run_action, action.method, target)
