"""The library and one's own recipes: text, plan, check with estimate; run, copy, edit, form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import Conflict, RecipeInvalid
from engine.types.jobs import JobView
from engine.types.recipes import Diagnostic, Estimate, LibraryEntry
from screens.actions import bindings
from screens.prose import fact_columns, heading, paragraph, table, toml_lines
from screens.recipe_picker import one_diagnostic, recipe_row, run_recipe
from screens.recipes.apart import planned
from screens.recipes.making import RecipeMaking
from screens.text import Line, duration, size
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

if TYPE_CHECKING:
    from engine.recipe.plan import Plan


class RecipesScreen(RecipeMaking):
    """What can be run, and whether it would."""

    NAME = "recipes"
    BINDINGS = bindings("recipes")
    COLUMNS: ClassVar = (
        Column("recipe", 24),
        Column("kind", 10, drop=2),
        Column("what it does", 0, drop=1),
        Column("from", 8, drop=3),
    )
    PANES: ClassVar = (("text", "Text"), ("check", "Check"), ("plan", "Plan"), ("keys", "Keys"))

    def fetch(self) -> Sequence[Row]:
        return [recipe_row(entry) for entry in self.workbench.recipes.library()]

    def _take_rows(self, rows: Sequence[Row]) -> None:
        super()._take_rows(rows)
        if self.key_to_choose and self.table.go_to(self.key_to_choose):
            self.key_to_choose = ""

    def pane_lines(self, pane: str, item: LibraryEntry) -> Build:
        recipes = self.workbench.recipes
        path = Path(item.path)
        if pane == "text":
            text = path.read_text(encoding="utf-8", errors="replace")
            return lambda width: toml_lines(text)
        if pane == "check":
            return self._check(path)
        if pane == "keys":
            return self._keys(item.kind)
        try:
            plan, _ = planned(self.workbench, path, estimated=False)
        except RecipeInvalid:
            return self._check(path)
        words, text = recipes.explained(plan), recipes.plan_text(plan)
        return lambda width: [
            *(line for part in words for line in paragraph(part, width)),
            *heading("Resolved, every key included"),
            *toml_lines(text),
        ]

    def _check(self, path: Path) -> Build:
        try:
            plan, estimates = planned(self.workbench, path)
        except RecipeInvalid as error:
            found = [line for item in error.diagnostics for line in one_diagnostic(item)]
            head: Line = [(f"✗ {error.what}", "bad")]
            return lambda width: [head, [], *found]
        warnings = [d for d in plan.warnings if isinstance(d, Diagnostic)]
        return lambda width: check_lines(plan, estimates, warnings, width)

    def _keys(self, kind: str) -> Build:
        recipes = self.workbench.recipes
        kinds = {view.name: view for view in recipes.kinds()}
        if kind not in kinds:
            rows = [(view.name, view.summary, ", ".join(view.outputs)) for view in kinds.values()]
            return lambda width: [
                [("A pipeline's steps use these kinds:", "")],
                [],
                *table(("kind", "what it does", "outputs"), rows, width, "key"),
            ]
        keys = recipes.keys(kind)
        return lambda width: [
            line
            for key in keys
            for line in (
                [(key.key, "key"), (f"  {key.expected}", ""), *_default(key.required, key.default)],
                *paragraph(key.description, width, "dim", "    "),
            )
        ]

    def empty_lines(self, width: int) -> list[Line]:
        return [
            [("The library is empty.", "bold")],
            [],
            *paragraph(
                "Recipes come with the program, with plugins, and from your own folder. "
                "a begins a new one of a kind, I translates another program's YAML.",
                min(76, width),
            ),
        ]

    # -- actions ----------------------------------------------------------------------------------

    def action_run_recipe(self) -> None:
        if self.item is not None:
            run_recipe(self, self.item.path, self._submitted)

    def _submitted(self, job: JobView) -> None:
        self.say(f"submitted {job.id} {job.name}; 1 shows it")
        self.work_app.job_to_show = job.id
        self.work_app.bridge.refresh()

    def action_check_recipe(self) -> None:
        self.deck.show("check")
        self.load_pane()

    def action_copy_recipe(self) -> None:
        if self.item is None:
            return
        entry: LibraryEntry = self.item

        def copy(name: str) -> None:
            def work() -> Path:
                recipes = self.workbench.recipes
                return recipes.save(name, Path(entry.path).read_text(encoding="utf-8"))

            self.in_thread("copy", work, self.recipe_saved)

        self.ask_line("Name of the copy", "It is yours: edit it with e.", copy, f"my-{entry.name}")

    def action_edit_recipe(self) -> None:
        if self.item is None:
            return
        if self.item.origin != "own":
            self.say("this recipe came with the program: C copies it first")
            return
        edit_file(self.app, Path(self.item.path))
        self.action_reload()

    def action_edit_form(self) -> None:
        from screens.recipes.form import FormScreen

        entry: LibraryEntry | None = self.item
        if entry is None:
            return

        def closed(saved: Path | None) -> None:
            if saved is not None:
                self.say(f"saved {saved}")
                self.action_reload()

        try:
            form = FormScreen(self.workbench, entry)
        except (OSError, ValueError):  # gone, no text, no TOML: there are no keys to show
            self.action_check_recipe()
            self.say("it can't be read as TOML: mend the text first (e opens it in $EDITOR)")
            return
        self.app.push_screen(form, closed)

    def command_twin(self) -> str:
        entry: LibraryEntry | None = self.item
        if entry is None:
            return "modelops-tui recipe list"
        words = {"check": "recipe check", "plan": "recipe explain", "keys": "recipe schema"}
        word = words.get(self.deck.current) if self.deck.has_focus_within else None
        return (
            f"modelops-tui {word or 'run'} {entry.name if word != 'recipe schema' else ''}".strip()
        )


def edit_file(app: Any, path: Path) -> None:
    """Open a file in $EDITOR; the screens come back when it closes."""
    import shlex
    import subprocess

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        with app.suspend():
            subprocess.run([*shlex.split(editor), str(path)], check=False)
    except OSError as error:
        raise Conflict(
            f"{editor!r} can't be started", why=str(error), hint="set EDITOR to your editor"
        ) from error


def _default(required: bool, default: Any) -> Line:
    if required:
        return [("  needed", "warn")]
    return [(f"  default {default}", "dim")] if default is not None else []


def check_lines(
    plan: Plan, estimates: dict[str, Estimate | None], warnings: list[Diagnostic], width: int
) -> list[Line]:
    """Verdict, warnings, and per step what it needs."""
    lines: list[Line] = [[("✓ this recipe can run", "good"), (f"   {plan.sha256[:12]}", "dim")], []]
    for warning in warnings:
        lines += one_diagnostic(warning)
    rows = []
    for step in plan.steps:
        need = estimates.get(step.name)
        rows.append(
            (
                step.name,
                step.kind,
                ", ".join(step.needs) or None,
                size(need.memory_bytes) if need else "after earlier steps",
                size(need.disk_bytes) if need and need.disk_bytes else None,
                duration(need.seconds) if need and need.seconds is not None else None,
            )
        )
    lines += table(("step", "kind", "needs", "memory", "disk", "time"), rows, width, "bold")
    for name, need in estimates.items():
        if need is None or not need.parts:
            continue
        lines += heading(f"Memory of {name}")
        lines += fact_columns([(part, size(amount)) for part, amount in need.parts.items()], width)
        for note in need.notes:
            lines += paragraph(note, width, "dim")
    return lines


SCREEN = RecipesScreen
