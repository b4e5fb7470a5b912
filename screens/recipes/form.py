"""The form of a recipe, made from its kind's schema: one row a key, checked while one writes.

One field edits the chosen row, so that a form of a hundred keys is as light as one of five. After
each stroke the whole recipe is checked again in a thread, as ``recipe check`` would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from engine.errors import ModelOpsError, RecipeInvalid
from engine.types.recipes import Diagnostic, LibraryEntry
from screens.actions import bindings
from screens.prose import paragraph
from screens.recipe_picker import one_diagnostic
from screens.recipes.apart import planned
from screens.recipes.document import RecipeDocument, toml_value
from screens.recipes.form_keys import FormKey, form_keys, sweep_place, unknown_keys
from screens.text import Line
from screens.widgets.key_hints import KeyHints
from screens.widgets.paged_table import Column, PagedTable, Row
from screens.widgets.text_pane import TextPane
from screens.widgets.top_bar import TopBar

if TYPE_CHECKING:
    from engine.api import Workbench
    from engine.api.recipes import KeyView

#: Seconds after the last stroke until the recipe is checked.
SETTLE_S = 0.25


@dataclass(frozen=True)
class Verdict:
    """What the check said of one text."""

    text: str
    diagnostics: tuple[Diagnostic, ...]
    extra: tuple[Any, ...] = ()


class FormScreen(Screen[Path | None]):
    """Dismissed with the file it was saved to, or None."""

    BINDINGS = bindings("form")
    AUTO_FOCUS = "#keys"

    def __init__(self, workbench: Workbench, entry: LibraryEntry) -> None:
        super().__init__()
        self._workbench = workbench
        self._entry = entry
        self.document = RecipeDocument(Path(entry.path).read_text(encoding="utf-8"))
        self._keys: list[FormKey] = []
        self.verdict: Verdict | None = None
        self._saved: Path | None = None
        self._edited: FormKey | None = None
        self._before = ""

    def compose(self) -> ComposeResult:
        yield TopBar(["Recipes", self._entry.name, "Form"])
        yield PagedTable(
            (
                Column("key", 26),
                Column("value", 0, weight=2),
                Column("allowed", 0, drop=1, weight=3),
            ),
            id="keys",
        )
        yield Input(id="value", compact=True)
        yield TextPane(id="form-state")
        yield KeyHints()

    def on_mount(self) -> None:
        self.query_one("#value").display = False
        self._renew_rows()
        self._check()

    @property
    def table(self) -> PagedTable:
        return self.query_one("#keys", PagedTable)

    def _renew_rows(self) -> None:
        """After a row came or went."""
        self._keys = form_keys(self.document, self._workbench.recipes)
        self._show_rows()

    def _show_rows(self) -> None:
        wrong = {d.key for d in self.verdict.diagnostics} if self.verdict else set()
        rows = []
        listed = [*unknown_keys(self.document, self._keys, wrong), *self._keys]
        edited = self._edited
        if edited is not None and all(key.place != edited.place for key in listed):
            listed.insert(0, edited)  # its field was emptied; the row stays until that is left
        for key in listed:
            value = self.document.shown(key.place)
            default = "" if key.view.default is None else str(key.view.default)
            style = "bad" if key.place in wrong else "bold" if value else "dim"
            rows.append(
                Row(
                    key.place,
                    (
                        (key.place, "bad" if key.place in wrong else "key" if value else ""),
                        (value or default or ("needed" if key.view.required else ""), style),
                        (key.view.expected, "dim"),
                    ),
                    key,
                )
            )
        self.table.set_rows(rows)

    # -- editing ----------------------------------------------------------------------------------

    def on_paged_table_moved(self) -> None:
        self._show_state()

    def on_paged_table_chosen(self, event: PagedTable.Chosen) -> None:
        self._edit(event.row.item, self.document.text)

    @property
    def _editing(self) -> bool:
        return self.query_one("#value").has_focus

    def _edit(self, key: FormKey, before: str) -> None:
        """Open the field; ``before`` is the text that escape goes back to."""
        field = self.query_one("#value", Input)
        field.display = True
        self._edited = key
        self._before = before
        with self.prevent(Input.Changed):
            field.value = self.document.shown(key.place)
        field.placeholder = f"{key.place}: {key.view.expected}"
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        key = self._edited
        if key is None or not event.input.has_focus:
            return
        if event.value.strip():
            self.document.set(key.place, event.value.strip(), key.view.expected)
        else:
            self.document.unset(key.place)
        self._show_rows()
        self.run_worker(
            self._settle(), group="settle", name="settle", exclusive=True, exit_on_error=False
        )

    async def _settle(self) -> None:
        import asyncio

        await asyncio.sleep(SETTLE_S)
        self._check()

    def on_input_submitted(self) -> None:
        self.query_one("#value").display = False
        self._edited = None
        self._renew_rows()
        self.table.focus()
        self._check()

    def action_unset_value(self) -> None:
        """The default again."""
        row = self.table.current
        if row is not None:
            self.document.unset(row.key)
            self._renew_rows()
            self._check()

    def action_next_mistake(self) -> None:
        """To the next key that the check is unhappy with, around the end."""
        wrong = {d.key for d in self.verdict.diagnostics} if self.verdict else set()
        table = self.table
        below = [*range(table.cursor + 1, len(table.rows)), *range(table.cursor + 1)]
        place = next((n for n in below if n < len(table.rows) and table.rows[n].key in wrong), None)
        if place is None:
            self.app.notify("no key has a mistake")
        else:
            table.cursor = place

    def action_add_variable(self) -> None:
        """Ask for a name, then for the value."""
        from screens.dialogs import LineDialog

        def named(name: str | None) -> None:
            if name:
                self._begin(f"vars.{name}", "")

        hint = "Keys refer to it as ${vars.NAME}; a value such as 8 or text."
        self.app.push_screen(LineDialog("Name of the variable", hint), named)

    def action_vary_value(self) -> None:
        """Put the chosen key into the sweep, with its value as the first of the list."""
        row = self.table.current
        if row is None or row.key == "pick" or row.key.startswith("matrix."):
            self.app.notify("v varies a key of a step or a variable", severity="warning")
            return
        value = self.document.get(row.key)
        if value is None:
            value = row.item.view.default
        self._begin(sweep_place(row.key), "[]" if value is None else toml_value([value]))

    def _begin(self, place: str, text: str) -> None:
        """Make a row that is not there yet, go to it, and open its field."""
        before = self.document.text
        if self.document.get(place) is None:
            self.document.set(place, text or '""')
        self._renew_rows()
        if self.table.go_to(place) and self.table.current is not None:
            self._edit(self.table.current.item, before)
        self._check()

    # -- checking ---------------------------------------------------------------------------------

    def _check(self) -> None:
        text = self.document.text
        self.run_worker(
            lambda: self._verdict_of(text),
            thread=True,
            group="check",
            name="check",
            exclusive=True,
            exit_on_error=False,
        )

    def _verdict_of(self, text: str) -> Verdict:
        try:
            plan, estimates = planned(self._workbench, text, (), Path(self._entry.path))
        except RecipeInvalid as error:
            found = (d for d in error.diagnostics if isinstance(d, Diagnostic))
            return Verdict(text, tuple(found))
        except ModelOpsError as error:
            advice = ". ".join(part for part in (error.why, error.hint) if part)
            return Verdict(text, (Diagnostic(self._entry.path, 1, 1, error.what, advice),))
        warnings = (d for d in plan.warnings if isinstance(d, Diagnostic))
        return Verdict(text, tuple(warnings), (plan, estimates))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.group == "check" and event.state is WorkerState.SUCCESS:
            result = event.worker.result
            if isinstance(result, Verdict) and result.text == self.document.text:
                self.verdict = result
                self._show_rows()
                self._show_state()
        elif event.state is WorkerState.ERROR:
            self.app.show_error(event.worker.error)  # type: ignore[attr-defined]

    def _show_state(self) -> None:
        row, verdict = self.table.current, self.verdict

        def lines(width: int) -> list[Line]:
            found: list[Line] = []
            if row is not None:
                view: KeyView = row.item.view
                found += [[(row.key, "key"), (f"  {view.expected}", "")]]
                found += paragraph(view.description, width, "dim")
            if verdict is None:
                return [*found, [], [("checking", "dim")]]
            if verdict.extra:
                from screens.recipes.screen import check_lines

                plan, estimates = verdict.extra
                return [*found, [], *check_lines(plan, estimates, list(verdict.diagnostics), width)]
            count = len(verdict.diagnostics)
            found += [[], [(f"✗ {count} mistake{'s' if count > 1 else ''}", "bad")]]
            return [*found, *(line for d in verdict.diagnostics for line in one_diagnostic(d))]

        self.query_one("#form-state", TextPane).show(lines)

    # -- leaving ----------------------------------------------------------------------------------

    def action_escape(self) -> None:
        """Out of the field (its change is taken back), then out of the form."""
        field = self.query_one("#value", Input)
        if field.display:
            field.display = False
            self._edited = None
            self.document = RecipeDocument(self._before)
            self._renew_rows()
            self.table.focus()
            self._check()
        else:
            self.dismiss(self._saved)

    def action_save_recipe(self) -> None:
        """Write the TOML; a shipped recipe is saved under a name of one's own."""
        if self._entry.origin == "own":
            self._save(Path(self._entry.path).stem, overwrite=True)
            return
        from screens.dialogs import LineDialog

        def named(name: str | None) -> None:
            if name:
                self._save(name, overwrite=False)

        title = "Save as (this recipe came with the program)"
        self.app.push_screen(LineDialog(title, "", f"my-{self._entry.name}"), named)

    def _save(self, name: str, *, overwrite: bool) -> None:
        try:
            path = self._workbench.recipes.save(name, self.document.text, overwrite=overwrite)
        except ModelOpsError as error:
            self.app.show_error(error)  # type: ignore[attr-defined]
            return
        self.dismiss(path)

    def action_run_form(self) -> None:
        """Run it as it stands, saved or not."""
        verdict = self.verdict
        if verdict is None or not verdict.extra or verdict.text != self.document.text:
            self.app.notify("it has mistakes, or is still being checked", severity="warning")
            return
        plan = verdict.extra[0]

        def submit() -> str:
            self._workbench.system.ensure_engine()
            job = self._workbench.jobs.submit(plan)
            self.app.job_to_show = job.id  # type: ignore[attr-defined]
            return job.id

        self.run_worker(submit, thread=True, group="submit", exit_on_error=False)
        self.app.notify(f"submitting {plan.name}; 1 shows it", markup=False)
