"""The versions of a dataset: look at an older one, compare, restore, name, write out, remove."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.types.data import DatasetView
from screens.data.changes import ChangesDialog, Question
from screens.data.work import DataWork
from screens.dialogs import ConfirmDialog
from screens.text import ago, number, size

_WHICH = "v3, a tag, a day (2026-01-31), a moment (2026-01-31T12:00)"
#: Names that a question counts up before it only says how many more there are.
_NAMED = 4
#: Hours that a vacuum keeps every version for, if nothing else is said.
_KEEP_HOURS = 168
_FREED_IN_PART = "Some of the files may be gone already; the versions that were to stay are whole."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {number(more)} more" if more > 0 else "")


def _selector_in(text: str, item: DatasetView) -> str:
    """What was meant where ``v1``, ``@v1`` or ``tickets@v1`` was written."""
    return text.removeprefix(f"{item.name}@").removeprefix("@")


class DataHistory(DataWork):
    """Each action works on the version that the panes show."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, str] = {}
        """Version, tag or date that is looked at, where it is not the newest."""
        self._offset = 0
        """First row of the page, from 0."""
        self._target = ""
        """Where an export was to go that has not come to its end."""

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
            which = _selector_in(text, item)
            self._look_at(item.name, "" if which == "latest" else which)

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

        def named(text: str) -> None:
            try:
                old, *key = shlex.split(text.replace(",", " "))
            except ValueError as error:  # an open quotation mark
                self.say(f"{text}: {error}")
                return
            self._compare(Question(item.name, _selector_in(old, item), new, tuple(key)))

        hint = f"{_WHICH}. Columns behind it are the key that tells changed rows: v1 id"
        self.ask_line(
            f"What changed in {self._ref(item)} since which version?",
            hint,
            named,
            self._before(item) or f"v{item.latest}",
        )

    def _compare(self, question: Question) -> None:
        def ask(offset: int, then: Callable[[Mapping[str, Any]], None]) -> None:
            if not self.busy():
                command = question.command(offset)
                self._run(f"Compare {question.title}", command, question.arguments, then)

        def show(found: Mapping[str, Any]) -> None:
            self.app.push_screen(ChangesDialog(question, found, ask, self.workbench.paths))

        ask(0, show)

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
            old = _selector_in(text, item)
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

        place = Path.cwd() / f"{ref.replace('@', '-').replace(':', '')}.jsonl"

        def named(text: str) -> None:
            try:
                target = Path(text).expanduser().absolute()
                target = target / place.name if target.is_dir() else target
                there = target.stat() if target.exists() else None
            except (OSError, RuntimeError) as error:  # not ours to look into; no such user
                self.say(f"{text}: {error}")
                return
            if there is None:
                self._export(ref, target, force=False)
                return

            def answered(yes: bool | None) -> None:
                if yes:
                    self._export(ref, target, force=True)

            written = ago(there.st_mtime, self.work_app.clock())
            told = f"It has {size(there.st_size)} and was written {written} ago."
            dialog = ConfirmDialog(f"Write over {target}?", told, "write over it", "cancel")
            self.app.push_screen(dialog, answered)

        hint = "Its ending chooses the form: .jsonl, .csv or .parquet"
        self.ask_line(f"Write {ref} to which file?", hint, named, self._target or str(place))

    def _export(self, ref: str, target: Path, *, force: bool) -> None:
        def done(written: Any) -> None:
            self._target = ""
            self.say(f"{number(written['rows'])} rows of {ref} written to {target}")

        self._target = str(target)
        command = ["data", "export", *(["--force"] if force else [])]
        self._run(f"Export {ref}", command, [ref, str(target)], done)

    # -- remove -----------------------------------------------------------------------------------

    def action_remove_data(self) -> None:
        """Delete a dataset, after it was named and what goes with it."""
        item = self._dataset("can be removed")
        if item is None:
            return

        def ask(pins: Mapping[str, Any]) -> None:
            if not self.is_current:
                return  # gone elsewhere meanwhile: a key pressed there must not answer this
            question = f"Remove the dataset {item.name}?"
            dialog = ConfirmDialog(question, _removal(item, pins), "remove it", "keep it")
            self.app.push_screen(dialog, answered)

        def answered(yes: bool | None) -> None:
            if yes:
                self._remove(item.name)

        self.in_thread("pins", partial(self.read_apart, "pins", item.name), ask)

    def _remove(self, name: str) -> None:
        def done(_answer: Any) -> None:
            self._versions.pop(name, None)
            self.say(f"{name} is removed")
            self.action_reload()

        # the dialog told what --force means: signed versions stay in the registry
        stopped = "The list tells whether it was gone already."
        self._run(f"Remove {name}", ["data", "rm", "--force"], [name], done, stopped=stopped)

    # -- tags and space ---------------------------------------------------------------------------

    def action_tag_data(self) -> None:
        """Name the shown version, or take a name away."""
        item = self._dataset("can be tagged")
        if item is None:
            return
        ref = self._ref(item)

        def named(text: str) -> None:
            tag = text.removeprefix("-")
            command = ["data", "tag", *(["--delete"] if text != tag else [])]
            told = f"{ref} is {tag} now"
            if text != tag:
                was = item.tags.get(tag)
                told = f"the tag {tag} of {item.name} is removed; it was v{was}"

            def done(_answer: Any) -> None:
                self.say(told)
                self.action_reload()

            stopped = "The list tells whether it was done already."
            self._run(f"Tag {ref}", command, [ref, tag], done, stopped=stopped)

        some = ", ".join(f"{tag}=v{version}" for tag, version in sorted(item.tags.items()))
        hint = "A tag moves when it is given again; -golden takes golden away."
        self.ask_line(f"Tag for {ref}", f"{hint} {some}".strip(), named)

    def action_vacuum_data(self) -> None:
        """Free what only old versions need: tell how much that is, ask, do it."""
        item = self._dataset("has old versions")
        if item is None:
            return

        def named(text: str) -> None:
            if not text.isdecimal():
                self.say(f"{text} is no number of hours")
                return

            def ask(report: Mapping[str, Any]) -> None:
                kept = [f"{version} ({why})" for version, why in report["kept"].items()]
                told = f"Kept for ever: {_listed(kept)}."
                if not report["files"]:
                    self.say(f"Nothing of {item.name} to free. {told}")
                    return
                count = f"{number(report['files'])} file{'' if report['files'] == 1 else 's'}"
                question = f"Free {size(report['size_bytes'])} in {count} of {item.name}?"
                gone = f"Other versions older than {text} hours can't be read any more.\n{told}"
                self.app.push_screen(ConfirmDialog(question, gone, "free it", "keep it"), answered)

            def answered(yes: bool | None) -> None:
                if yes:
                    title = f"Free space of {item.name}"
                    self._run(title, [*command, "--apply"], rest, freed, stopped=_FREED_IN_PART)

            command, rest = ["data", "vacuum", f"--older-than={text}"], [item.name]
            self._run(f"Look for old files of {item.name}", command, rest, ask)

        def freed(report: Mapping[str, Any]) -> None:
            self.say(f"freed {size(report['size_bytes'])} of {item.name}")
            self.action_reload()

        hint = "Tagged and signed versions, and the newest, stay whatever their age."
        title = f"Keep which versions of {item.name}: younger than how many hours?"
        self.ask_line(title, hint, named, str(_KEEP_HOURS))


def _removal(item: DatasetView, pins: Mapping[str, Any]) -> str:
    """What removing a dataset takes away, what stays, and what was made from it."""
    some = f"All {item.versions} versions" if item.versions > 1 else "Its one version"
    tags = f" with the tag{'s' if len(item.tags) > 1 else ''} {_listed(sorted(item.tags))}"
    told = (
        f"{some}{tags if item.tags else ''} will be deleted ({number(item.rows)} rows in the"
        " newest). Nothing brings them back."
    )
    signed = [f"v{version}" for version in pins["signed"]]
    if signed:
        told += f"\nSigned, so they stay in the registry as artifacts: {_listed(signed)}."
    if pins["used"]:
        told += f"\nMade from it: {_listed(pins['used'])}."
    return told
