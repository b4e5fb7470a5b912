"""New recipes: of a kind, with every key described; or translated from another program's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.api.recipes import KindView
from screens.child import Child
from screens.detail_screen import DetailScreen
from screens.dialogs import ChoiceDialog, TextDialog
from screens.progress import Task
from screens.prose import heading, paragraph
from screens.text import Line
from screens.widgets.paged_table import Column, Row

_PIPELINE = "several steps, one's output another's input"


class RecipeMaking(DetailScreen):
    """What is made stands among one's own recipes, and is the chosen row."""

    def action_new_recipe(self) -> None:
        """Choose a kind; every key of it is written down with its meaning."""

        def listed(kinds: Sequence[KindView]) -> None:
            known = [(view.name, view.summary) for view in kinds]
            rows = [
                Row(name, ((name, "key"), (summary, "dim")), name)
                for name, summary in [*known, ("pipeline", _PIPELINE)]
            ]
            columns = (Column("kind", 12), Column("what it does", 0))
            self.app.push_screen(ChoiceDialog("A recipe of which kind?", columns, rows), chosen)

        def chosen(kind: str | None) -> None:
            if kind:
                hint = "It stands among your own: e opens it in $EDITOR, i fills in its form"
                then = partial(named, kind)
                self.ask_line(f"Name of the new {kind} recipe", hint, then, f"my-{kind}")

        def named(kind: str, name: str) -> None:
            def work() -> Path:
                recipes = self.workbench.recipes
                return recipes.save(name, recipes.new(kind, name))

            self.in_thread("new", work, self.recipe_saved)

        self.in_thread("kinds", self.workbench.recipes.kinds, listed)

    def action_import_recipe(self) -> None:
        """Translate a YAML of another program; what has no counterpart is told with its reason."""

        def named_file(text: str) -> None:
            path = Path(text).expanduser()
            # checking what came out may load a tokenizer: not in the screens' process
            child = Child(["recipe", "import"], [str(path)], self.workbench.paths, Task("import"))
            self.in_thread("import", child.run, partial(translated, path))

        def translated(path: Path, found: Mapping[str, Any]) -> None:
            name = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem.lower())
            told = f"Read as a recipe of {found['dialect']}; the report comes when it is saved"
            self.ask_line(
                "Name of the recipe", told, partial(save, found), name.strip("-_") or "my"
            )

        def save(found: Mapping[str, Any], name: str) -> None:
            def done(path: Path) -> None:
                self.recipe_saved(path)
                report = partial(import_lines, found)
                self.app.push_screen(TextDialog(f"{name}: what was translated, and not", report))

            work = partial(self.workbench.recipes.save, name, found["text"])
            self.in_thread("save", work, done)

        hint = "YAML of Axolotl, LLaMA-Factory, TRL, torchtune or Unsloth"
        self.ask_line("Translate which file?", hint, named_file, f"{Path.cwd()}/")

    def recipe_saved(self, path: Path) -> None:
        """It is listed, and chosen as soon as it is."""
        self.say(f"saved {path}")
        self.key_to_choose = str(path)
        self.action_reload()

    key_to_choose = ""


def import_lines(found: Mapping[str, Any], width: int) -> list[Line]:
    """The notes of a translation, every key that has no counterpart, and what is still wrong."""
    lines: list[Line] = [[(f"Read as a recipe of {found['dialect']}.", "bold")]]
    for note in found["notes"]:
        lines += paragraph(f"note: {note}", width)
    missing = found["untranslated"]
    lines += heading(f"Not translated ({len(missing)})" if missing else "All keys were translated")
    for item in missing:
        lines.append([(str(item["key"]), "key"), (f" = {item['value']!r}", "")])
        lines += paragraph(str(item["reason"]), width, "dim", "    ")
    if found["diagnostics"]:
        lines += heading("Still to be mended")
    for item in found["diagnostics"]:
        lines += paragraph(f"{item['path']}: {item['what']}", width, "warn")
        lines += paragraph(str(item["advice"]), width, "dim", "    ") if item["advice"] else []
    return lines
