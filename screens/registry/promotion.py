"""Promotion from the Registry screen: choose a stage, see its gates, confirm, sign."""

from __future__ import annotations

from functools import partial
from typing import Any

from engine.types.artifacts import ArtifactView, GateResult
from screens.detail_screen import DetailScreen
from screens.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from screens.prose import paragraph
from screens.text import Line
from screens.widgets.paged_table import Column, Row


def ref(view: ArtifactView) -> str:
    """What a command calls the artifact."""
    return f"{view.name}@{view.version}"


def named(view: ArtifactView) -> str:
    """What a question calls the artifact."""
    return f"{ref(view)} ({view.artifact_type})"


def _without_release_key(width: int) -> list[Line]:
    return [
        *paragraph("There is no release key on this machine, and this stage asks for one.", width),
        [],
        [("modelops-tui keys create-release", "bold")],
        [],
        *paragraph("makes one and keeps it under a passphrase of your own.", width),
    ]


class PromotionActions(DetailScreen):
    """``p`` of the Registry screen."""

    def action_promote(self) -> None:
        """Choose a stage, see its gates, confirm."""
        view: ArtifactView | None = self.item
        if view is None:
            return

        def show(stages: Any) -> None:
            rows = [
                Row(
                    s.name,
                    (
                        (s.name, "bold"),
                        (f"{s.threshold} x {s.role}", "dim"),
                        ("; ".join(s.gates) or "no gate", ""),
                    ),
                )
                for s in stages
            ]
            columns = (Column("stage", 12), Column("who", 14, drop=1), Column("gates", 0))
            title = f"Promote {named(view)} to"
            self.app.push_screen(ChoiceDialog(title, columns, rows), partial(self._see_gates, view))

        self.in_thread("stages", self.workbench.artifacts.stages, show)

    def _see_gates(self, view: ArtifactView, stage: str | None) -> None:
        if stage is None:
            return
        work = partial(self.workbench.artifacts.gates, view.manifest, stage)
        self.in_thread("gates", work, partial(self._confirm, view, stage))

    def _confirm(self, view: ArtifactView, stage: str, gates: tuple[GateResult, ...]) -> None:
        unmet = [g for g in gates if not g.ok and not g.needs_passphrase]
        if unmet:
            lines: list[Line] = [
                [(("✓ " if g.ok else "✗ ") + g.text, "good" if g.ok else "bad")] for g in gates
            ]
            self.app.push_screen(TextDialog(f"{named(view)} can't go to {stage}", lines))
            return
        missing = max((g.missing for g in gates), default=0)

        def answered(yes: bool | None) -> None:
            if yes and missing:
                self._choose_key(view, stage, missing)
            elif yes:
                self._promote(view, stage)

        told = [
            f"✓ {g.text}"
            if g.ok
            else f"○ {g.text}: your release key's passphrase signs"
            + (f", and {g.missing - 1} more must" if g.missing > 1 else "")
            for g in gates
        ]
        verb = "Approve" if missing > 1 else "Promote"
        question = f"{verb} {named(view)} {'for' if missing > 1 else 'to'} {stage}?"
        self.app.push_screen(
            ConfirmDialog(question, "\n".join(told) or "This stage has no gate."), answered
        )

    def _choose_key(self, view: ArtifactView, stage: str, missing: int) -> None:
        """Which release key, where several are here."""

        def show(keys: tuple[str, ...]) -> None:
            if not keys:
                self.app.push_screen(
                    TextDialog(f"{named(view)} can't go to {stage}", _without_release_key)
                )
                return
            if len(keys) == 1:
                self._ask_passphrase(view, stage, missing, keys[0])
                return

            def chosen(key: str | None) -> None:
                if key is None:
                    self.say(f"{named(view)} stays where it is")
                else:
                    self._ask_passphrase(view, stage, missing, key)

            rows = [Row(key, ((key, "bold"),)) for key in keys]
            self.app.push_screen(
                ChoiceDialog("Which release key signs?", (Column("release key", 0),), rows), chosen
            )

        self.in_thread("release keys", self.workbench.artifacts.release_keys, show)

    def _ask_passphrase(self, view: ArtifactView, stage: str, missing: int, key: str) -> None:
        def unlocked(passphrase: str | None) -> None:
            if not passphrase:
                self.say(f"{named(view)} stays where it is")
            elif missing > 1:
                self._approve(view, stage, passphrase, key)
            else:
                self._promote(view, stage, passphrase, key)

        title = f"Passphrase of the release key {key}"
        self.app.push_screen(LineDialog(title, "", secret=True), unlocked)

    def _promote(
        self, view: ArtifactView, stage: str, passphrase: str | None = None, key: str | None = None
    ) -> None:
        def done(_: Any) -> None:
            self.say(f"{named(view)} is {stage} now")
            self.action_reload()

        promote = self.workbench.artifacts.promote
        work = partial(promote, view.manifest, stage, passphrase=passphrase, key=key)
        self.in_thread("promote", work, done)

    def _approve(self, view: ArtifactView, stage: str, passphrase: str, key: str) -> None:
        def done(count: int) -> None:
            self.say(f"{named(view)}: {count} key(s) agree on {stage} now; another must")
            self.action_reload()

        approve = self.workbench.artifacts.approve
        work = partial(approve, view.manifest, stage, passphrase=passphrase, key=key)
        self.in_thread("approve", work, done)
