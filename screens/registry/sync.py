"""Push and pull from the Registry screen: choose a remote or add one, watch it, stop it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engine.errors import ModelOpsError
from engine.types.artifacts import RemoteView, SyncProgress, SyncReport
from screens.detail_screen import DetailScreen
from screens.dialogs import ChoiceDialog, TextDialog
from screens.progress import ProgressDialog, Stopped, Task
from screens.prose import paragraph
from screens.text import Line, size
from screens.widgets.paged_table import Column, Row

_COLUMNS = (
    Column("remote", 12),
    Column("address", 0, weight=3),
    Column("last push", 16, drop=2),
    Column("last pull", 16, drop=1),
)
#: The row that adds a remote; no remote can be called this.
_ADD = "+ add a remote"
_ADDRESS = "s3://bucket/prefix?endpoint=http://host:9000, or a folder such as /mnt/share/models"
_STOPPED = {
    "push": "What was sent stays at the remote and is not sent again; nobody sees half of it.",
    "pull": "Nothing of this registry was changed.",
    "clone": "The registry is begun but not complete: pull goes on.",
}


class SyncActions(DetailScreen):
    """``>`` and ``<`` of the Registry screen."""

    sync_task: Task | None = None
    """The push or pull that runs, or None."""

    def action_push(self) -> None:
        """To a remote; an empty registry says that there is nothing to push."""
        if not self.workbench.artifacts.exists:
            self.say("there is nothing to push: the registry is empty")
            return
        self._choose_remote("push")

    def action_pull(self) -> None:
        """From a remote; where there is no registry yet, a remote's one is cloned."""
        if not self.workbench.artifacts.exists:
            title = "Address of the registry to clone"
            self.ask_line(title, _ADDRESS, lambda url: self._sync("clone", url))
            return
        self._choose_remote("pull")

    def _choose_remote(self, way: str) -> None:
        if self.sync_task is not None and not self.sync_task.over:
            self.app.push_screen(ProgressDialog(self.sync_task))
            return

        def show(remotes: tuple[RemoteView, ...]) -> None:
            if not remotes:
                self._add_remote(way, first=True)
                return
            title = "Push to which remote?" if way == "push" else "Pull from which remote?"
            rows = [*map(remote_row, remotes), Row(_ADD, ((_ADD, "accent"),))]
            self.app.push_screen(ChoiceDialog(title, _COLUMNS, rows), chosen)

        def chosen(name: str | None) -> None:
            if name == _ADD:
                self._add_remote(way, first=False)
            elif name is not None:
                self._sync(way, name)

        self.in_thread("remotes", self.workbench.artifacts.remotes, show)

    def _add_remote(self, way: str, *, first: bool) -> None:
        """Ask for address and name, probe the place, then go on with the push or pull."""

        def addressed(url: str) -> None:
            hint = f"A short name; then the {way} begins."
            self.ask_line(f"Name of {url}", hint, named(url), "origin" if first else "")

        def named(url: str) -> Callable[[str], None]:
            def go(name: str) -> None:
                work = partial(self.workbench.artifacts.remote_add, name, url)
                self.in_thread("remote", work, added)
                self.say(f"probing {url}")

            return go

        def added(view: RemoteView) -> None:
            shared = "several may push" if view.shared else view.note
            self.say(f"{view.name} is a remote now: {shared}")
            self._sync(way, view.name)

        title = f"No remote yet: {way} where?" if first else "Address of the new remote"
        self.ask_line(title, _ADDRESS, addressed)

    def _sync(self, way: str, place: str) -> None:
        artifacts = self.workbench.artifacts
        words = {"push": f"Push to {place}", "pull": f"Pull from {place}"}
        task = Task(words.get(way, f"Clone {place}"), _STOPPED[way])
        self.sync_task = task

        def progress(step: SyncProgress) -> None:
            task.tell(step.phase, step.file, step.done, step.total)

        def work() -> SyncReport:
            try:
                return getattr(artifacts, way)(place, progress=progress)  # type: ignore[no-any-return]
            finally:
                task.over = True

        dialog = ProgressDialog(task)

        def done(report: SyncReport) -> None:
            dialog.look()
            self.say(told(way, place, report))
            if way == "clone":
                self._show_root(str(artifacts.device()["root"]))
            self.action_reload()

        def failed(error: ModelOpsError) -> bool:
            dialog.look()
            if isinstance(error, Stopped):
                self.say(f"{error.what}. {error.why}")
            else:
                self.work_app.show_error(error)
            self.action_reload()
            return True

        self.in_thread("sync", work, done, failed)
        self.app.push_screen(dialog)

    def _show_root(self, root: str) -> None:
        told_: list[Line] = [
            [(root, "bold")],
            [],
            *paragraph(
                "This is the root key of the cloned registry. Compare it with what `modelops-tui"
                " keys show` prints at its holder: only then do you know whose registry it is.",
                76,
            ),
        ]
        self.app.push_screen(TextDialog("Whose registry is this?", told_))


def remote_row(view: RemoteView) -> Row:
    """A remote as a row."""
    return Row(
        view.name,
        (
            (view.name, "bold"),
            (view.url + ("" if view.shared else "  (one writer only)"), ""),
            (view.last_push[:16].replace("T", " ") or "never", "dim"),
            (view.last_pull[:16].replace("T", " ") or "never", "dim"),
        ),
        view,
    )


def told(way: str, place: str, report: SyncReport) -> str:
    """What a push, a pull or a clone did, in one sentence."""
    if not report.events and not report.manifests and not report.blobs:
        return f"{place} has everything already" if way == "push" else f"{place} has nothing new"
    verb, to = {"push": ("pushed", "to"), "pull": ("pulled", "from")}.get(way, ("cloned", "from"))
    count = f"{report.manifests} artifact{'' if report.manifests == 1 else 's'}"
    text = f"{verb} {count}, {size(report.size_bytes)} {to} {place} in {report.seconds:.1f} s"
    if report.partial:
        text += f"; in part only: {', '.join(report.partial[:3])}"
    return text
