"""Indexes made and brought up to date from the Ask screen, in a process of their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from engine.errors import ModelOpsError
from engine.types.rag import IndexView
from screens.detail_screen import DetailScreen
from screens.dialogs import ConfirmDialog
from screens.progress import ProgressDialog, Stopped, Task
from screens.text import number, size

#: Seconds that a stopped sync has to come to an end by itself.
GRACE_S = 5.0
_STOPPED = "What was embedded so far is not lost: the next sync goes on from there."


class AskSync(DetailScreen):
    """``u`` syncs, ``U`` builds anew; questions are answered from the old state meanwhile."""

    sync_task: Task | None = None
    """The sync that runs, or None."""

    def action_sync_index(self) -> None:
        """Bring the chosen index up to date; where there is none, make one."""
        self._sync_chosen(rebuild=False)

    def action_rebuild_index(self) -> None:
        """Build the chosen index anew beside the old one, then switch."""
        self._sync_chosen(rebuild=True)

    def action_new_index(self) -> None:
        """Index another folder."""

        def foldered(folder: str) -> None:
            name = folder.rstrip("/").rpartition("/")[2].lower().replace(" ", "-") or "docs"
            self.ask_line("Name of the index", "", partial(self._sync, folder, rebuild=False), name)

        if not self._syncing():
            hint = "`docs` is the bundled documentation"
            self.ask_line("Folder of documents", hint, foldered, "docs")

    def action_publish_index(self) -> None:
        """Sign the chosen index as it answers now."""
        if self.item is None:
            self.say("there is no index to sign")
            return
        name = self.item.name

        def done(manifest: str) -> None:
            self.say(f"{name} is signed: {manifest[:19]}, 4 shows it")
            self.action_reload()

        self.in_thread("publish", partial(self.workbench.rag.publish, name), done)

    def action_remove_index(self) -> None:
        """Delete the chosen index, after it was asked."""
        item: IndexView | None = self.item
        if item is None:
            self.say("there is no index to remove")
            return
        name = item.name

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_thread("remove", partial(self.workbench.rag.remove, name), removed)

        def removed(freed: int) -> None:
            self.say(f"{name} is removed; {size(freed)} are free again")
            self.action_reload()

        told = (
            f"{number(item.chunks)} chunks of {number(item.documents)} documents"
            f" ({size(item.size_bytes)}) will be deleted. The documents themselves stay"
        )
        told += "; so do its signed artifacts." if item.manifest else "."
        question = f"Remove the index {name}?"
        self.app.push_screen(ConfirmDialog(question, told, "remove it", "keep it"), answered)

    def _sync_chosen(self, *, rebuild: bool) -> None:
        if self.item is None or not self.item.folder:
            self.action_new_index()
        elif not self._syncing():
            self._sync(self.item.folder, self.item.name, rebuild=rebuild)

    def _syncing(self) -> bool:
        """True, and its progress is shown, while one runs."""
        if self.sync_task is None or self.sync_task.over:
            return False
        self.app.push_screen(ProgressDialog(self.sync_task))
        return True

    def _sync(self, folder: str, name: str, *, rebuild: bool) -> None:
        # a process of its own: those who ask meanwhile don't wait for it
        rag = type(self.workbench)(self.workbench.paths.root).rag

        def end() -> None:
            timer = threading.Timer(GRACE_S, rag.close)
            timer.daemon = True
            timer.start()

        task = Task(f"Index {folder} as {name}", _STOPPED, end, unit="files")
        self.sync_task = task
        task.phase = "reading"

        def work() -> Mapping[str, Any]:
            report: Mapping[str, Any] = {}
            try:
                for event in rag.sync(folder, name, rebuild=rebuild):
                    report = event.get("result") or report
                    if event.get("type") == "progress":
                        task.tell("indexing", event["name"], event["done"], event["total"])
            except ModelOpsError as error:
                if task.stopping and not isinstance(error, Stopped):
                    # it did not end by itself in time
                    raise Stopped(f"{task.title}: stopped", why=_STOPPED) from error
                raise
            finally:
                task.over = True
                rag.close()
            return report

        def done(report: Mapping[str, Any]) -> None:
            dialog.look()
            self.say(f"{name} is up to date: {told(report)}")
            self.action_reload()

        def failed(error: ModelOpsError) -> bool:
            dialog.look()
            if isinstance(error, Stopped):
                self.say(f"{error.what}. {error.why}")
            else:
                self.work_app.show_error(error)
            self.action_reload()
            return True

        dialog = ProgressDialog(task)
        self.in_thread("sync", work, done, failed)
        self.app.push_screen(dialog)

    def on_unmount(self) -> None:
        """The screens close: what was embedded is kept, and the next sync goes on."""
        if self.sync_task is not None and not self.sync_task.over:
            self.sync_task.stop()


def told(report: Mapping[str, Any]) -> str:
    """``12 documents, 40 chunks: 2 added, 1 changed; 1 file could not be read``."""
    changes = [
        f"{number(report[name])} {name}"
        for name in ("added", "changed", "renamed", "removed")
        if report.get(name)
    ]
    text = f"{number(report['documents'])} documents, {number(report['chunks'])} chunks"
    text += f": {', '.join(changes)}" if changes else ", nothing had changed"
    unread = len(report.get("unreadable") or ())
    if unread:
        text += f"; {number(unread)} file{'s' if unread != 1 else ''} could not be read (Files)"
    return text
