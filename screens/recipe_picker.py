"""Choose a recipe of the library and run it: checked first, then submitted, both in threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ModelOpsError, RecipeInvalid
from engine.types.jobs import JobView
from engine.types.recipes import LibraryEntry
from screens.dialogs import ChoiceDialog, TextDialog
from screens.text import Line
from screens.widgets.paged_table import Column, Row

if TYPE_CHECKING:
    from screens.frame import WorkScreen

_COLUMNS = (
    Column("recipe", 22),
    Column("kind", 10, drop=2),
    Column("what it does", 0, drop=1),
    Column("from", 8, drop=3),
)


def pick_and_run(screen: WorkScreen, submitted: Callable[[JobView], None]) -> None:
    """Show the library; run what is chosen; ``submitted`` gets the accepted job."""

    def show(entries: tuple[LibraryEntry, ...]) -> None:
        by_path = {entry.path: entry for entry in entries}

        def chosen(path: str | None) -> None:
            if path is not None:
                run_recipe(screen, path, submitted)

        rows = [recipe_row(entry) for entry in by_path.values()]
        empty = "the library is empty: `modelops-tui recipe new` writes a first recipe"
        screen.app.push_screen(ChoiceDialog("Start a recipe", _COLUMNS, rows, empty), chosen)

    screen.in_thread("library", screen.workbench.recipes.library, show)


def recipe_row(entry: LibraryEntry) -> Row:
    """A recipe as a row; one that can't be read says why."""
    return Row(
        entry.path,
        (
            (entry.name, "bold"),
            (entry.kind, "dim"),
            (entry.problem or entry.summary, "bad" if entry.problem else ""),
            (entry.origin, "dim"),
        ),
        entry,
    )


def run_recipe(
    screen: WorkScreen, path: str, submitted: Callable[[JobView], None], sets: tuple[str, ...] = ()
) -> None:
    """Check a recipe and submit it; every mistake is shown at once."""
    screen.in_thread(
        "submit",
        partial(_submit, screen, path, sets),
        submitted,
        partial(_refused, screen),
    )
    screen.say("checking the recipe")


def _submit(screen: WorkScreen, path: str, sets: tuple[str, ...]) -> JobView:
    from screens.recipes.apart import planned

    workbench = screen.workbench
    plan, _ = planned(workbench, Path(path), sets, estimated=False)
    workbench.system.ensure_engine()
    return workbench.jobs.submit(plan)


def _refused(screen: WorkScreen, error: ModelOpsError) -> bool:
    if not isinstance(error, RecipeInvalid):
        return False
    screen.app.push_screen(TextDialog("This recipe can't run", diagnostic_lines(error)))
    return True


def diagnostic_lines(error: RecipeInvalid) -> list[Line]:
    """Every mistake with its place, the line, a caret under it and the advice."""
    lines: list[Line] = [[(error.what, "bad")], []]
    for item in error.diagnostics:
        lines += one_diagnostic(item)
    if error.hint:
        lines.append([(f"hint: {error.hint}", "accent")])
    return lines


def one_diagnostic(item: object) -> list[Line]:
    """One mistake as lines, as rustc writes them."""
    from engine.types.recipes import Diagnostic

    if not isinstance(item, Diagnostic):
        return [[(str(item), "")], []]
    style = "warn" if item.severity == "warning" else "bad"
    lines: list[Line] = [[(f"{item.path}:{item.line}:{item.column}: ", "bold"), (item.what, style)]]
    if item.source_line:
        gutter = f"{item.line:>4} | "
        lines.append([(gutter, "dim"), (item.source_line, "")])
        caret = " " * (item.column - 1) + "^" * max(1, item.length)
        lines.append([(" " * 4 + " | ", "dim"), (caret, style)])
    if item.advice:
        lines.append([("     = ", "dim"), (item.advice, "accent")])
    return [*lines, []]
