"""The versions of a dataset: look at an older one, compare, restore, export, remove all."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Any

from engine.types.data import DatasetView
from screens.data.lines import diff_lines
from screens.data.work import DataWork
from screens.dialogs import ConfirmDialog, TextDialog
from screens.text import ago, number, size

_WHICH = "v3, a tag, a day (2026-01-31), a moment (2026-01-31T12:00)"


class DataHistory(DataWork):
    """Each action works on the version that the panes show."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, str] = {}
        """Version, tag or date that is looked at, where it is not the newest."""
        self._offset = 0
        """First row of the page, from 0."""

    def _ref(self, item: DatasetView) -> str:
        """The version that the panes show."""
        return f"{item.name}@{self._selector(item)}"

    def _selector(self, item: DatasetView) -> str:
        return self._versions.get(item.name) or f"v{item.latest}"

    def _before(self, item: DatasetView) -> str:
        """The version before the shown one, as far as its number is known; else empty."""
        shown = self._selector(item)
        number_ = int(shown[1:]) if shown[:1] == "v" and shown[1:].isdecimal() else 0
        return f"v{number_ - 1}" if number_ > 1 else ""

    def _dataset(self, what: str, *, work: bool = True) -> DatasetView | None:
        """The dataset under the cursor, for ``work`` where none runs; says why there is none."""
        if not isinstance(self.item, DatasetView):
            self.say(f"only a dataset of your own {what}: i imports a file as one")
            return None
        return None if work and self.busy() else self.item

    def action_choose_version(self) -> None:
        """Time travel: every pane shows the version that is named."""
        item = self._dataset("has versions", work=False)
        if item is None:
            return

        def chosen(text: str) -> None:
            self._look_at(item.name, "" if text == "latest" else text.removeprefix("@"))

        now = self._versions.get(item.name) or "latest"
        self.ask_line(f"Which version of {item.name}?", f"{_WHICH}, or latest", chosen, now)

    def _look_at(self, name: str, selector: str) -> None:
        self._versions[name] = selector
        self._offset = 0
        self.load_pane()

    # -- compare ----------------------------------------------------------------------------------

    def action_diff_data(self) -> None:
        """What changed from another version to the shown one."""
        item = self._dataset("has versions to compare")
        if item is None:
            return
        if item.versions < 2:
            self.say(f"{item.name} has one version: i imports a file as its next one")
            return
        new = self._selector(item)

        def compare(text: str) -> None:
            try:
                old, *keys = shlex.split(text.replace(",", " "))
            except ValueError as error:  # an open quotation mark
                self.say(f"{text}: {error}")
                return
            options = [word for key in keys for word in ("--key", key)]

            def done(found: Any) -> None:
                title = f"{item.name}: {old} -> {new}"
                self.app.push_screen(TextDialog(title, partial(diff_lines, found)))

            self._run(
                f"Compare {item.name}@{old} with {new}",
                ["data", "diff", *options],
                [item.name, old.removeprefix("@"), new],
                done,
            )

        hint = f"{_WHICH}. Columns behind it are the key that tells changed rows: v1 id"
        self.ask_line(
            f"What changed in {self._ref(item)} since which version?",
            hint,
            compare,
            self._before(item) or f"v{item.latest}",
        )

    # -- restore ----------------------------------------------------------------------------------

    def action_restore_data(self) -> None:
        """Make a version with the rows of an older one."""
        item = self._dataset("has versions to restore")
        if item is None:
            return
        if item.versions < 2:
            self.say(f"{item.name} has one version: there is none to go back to")
            return

        def named(text: str) -> None:
            old = text.removeprefix("@")
            told = (
                f"A new version gets the rows of {item.name}@{old} and is the newest then.\n"
                f"v{item.latest} and all others stay as they are."
            )

            def answered(yes: bool | None) -> None:
                if yes:
                    self._restore(item.name, old)

            question = f"Restore {item.name}@{old}?"
            self.app.push_screen(ConfirmDialog(question, told, "restore", "cancel"), answered)

        shown = self._versions.get(item.name) or f"v{item.latest - 1}"
        self.ask_line(f"Which version of {item.name} comes back?", _WHICH, named, shown)

    def _restore(self, name: str, old: str) -> None:
        def done(version: Any) -> None:
            self._look_at(name, "")
            rows = number(version["rows"])
            self.say(f"{name}@{version['version']} has the {rows} rows of {name}@{old}")
            self.action_reload()

        self._run(
            f"Restore {name}@{old}",
            ["data", "restore"],
            [f"{name}@{old}"],
            done,
            stopped="The list tells whether the version was made already.",
        )

    # -- export -----------------------------------------------------------------------------------

    def action_export_data(self) -> None:
        """Write the shown version to a file."""
        item = self._dataset("can be exported")
        if item is None:
            return
        ref = self._ref(item)

        def named(text: str) -> None:
            target = Path(text).expanduser().absolute()
            if not target.exists():
                self._export(ref, target, force=False)
                return

            def answered(yes: bool | None) -> None:
                if yes:
                    self._export(ref, target, force=True)

            stat = target.stat()
            written = ago(stat.st_mtime, self.work_app.clock())
            told = f"It has {size(stat.st_size)} and was written {written} ago."
            dialog = ConfirmDialog(f"Write over {target}?", told, "write over it", "cancel")
            self.app.push_screen(dialog, answered)

        place = Path.cwd() / f"{ref.replace('@', '-').replace(':', '')}.jsonl"
        hint = "Its ending chooses the form: .jsonl, .csv or .parquet"
        self.ask_line(f"Write {ref} to which file?", hint, named, str(place))

    def _export(self, ref: str, target: Path, *, force: bool) -> None:
        def done(written: Any) -> None:
            self.say(f"{number(written['rows'])} rows of {ref} written to {target}")

        command = ["data", "export", *(["--force"] if force else [])]
        self._run(f"Export {ref}", command, [ref, str(target)], done)

    # -- remove -----------------------------------------------------------------------------------

    def action_remove_data(self) -> None:
        """Delete a dataset, after it was named and what goes with it."""
        item = self._dataset("can be removed")
        if item is None:
            return
        some = f"All {item.versions} versions" if item.versions > 1 else "Its one version"
        tags = f" with the tags {', '.join(item.tags)}" if item.tags else ""
        told = (
            f"{some}{tags} will be deleted ({number(item.rows)} rows in the newest)."
            " Nothing brings them back.\n"
            "Versions that were signed stay in the registry as artifacts."
        )

        def answered(yes: bool | None) -> None:
            if yes:
                self._remove(item.name)

        question = f"Remove the dataset {item.name}?"
        self.app.push_screen(ConfirmDialog(question, told, "remove it", "keep it"), answered)

    def _remove(self, name: str) -> None:
        def done(_answer: Any) -> None:
            self._versions.pop(name, None)
            self.say(f"{name} is removed")
            self.action_reload()

        # the dialog told what --force means: signed versions stay in the registry
        stopped = "The list tells whether it was gone already."
        self._run(f"Remove {name}", ["data", "rm", "--force"], [name], done, stopped=stopped)
