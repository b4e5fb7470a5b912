"""Answers worth keeping: whole conversations, and which of two was better, as rows of datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine.errors import ModelOpsError
from engine.types.chats import KeptRows, conversation_row, preference_row
from screens.chat.session import Conversation
from screens.child import Child
from screens.dialogs import LineDialog
from screens.frame import WorkScreen
from screens.progress import Task
from screens.text import number

#: Where each kind of row goes until another name is given.
DATASETS = {"conversation": "chats", "preference": "preferences"}


class ChatKeeping(WorkScreen):
    """Rows are written down at once; ``W`` makes a version of the dataset with them."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[Conversation] = []
        self.waiting: tuple[KeptRows, ...] = ()
        """What was kept, here or before, and is in no version yet."""
        self._datasets: dict[str, str] = {}

    def refresh_chat(self) -> None:
        """Draw everything again."""
        raise NotImplementedError

    def look_for_kept(self) -> None:
        """Read what waits."""

        def known(waiting: tuple[KeptRows, ...]) -> None:
            self.waiting = waiting
            self.refresh_chat()

        self.in_thread("kept", self.workbench.kept.list, known)

    @property
    def kept_crumb(self) -> str:
        """``3 rows kept``, or nothing."""
        count = sum(kept.rows for kept in self.waiting)
        return f"{number(count)} row{'s' if count != 1 else ''} kept" if count else ""

    # -- actions ----------------------------------------------------------------------------------

    def action_keep_answer(self) -> None:
        """Keep the conversation of every column."""
        if self._busy():
            return
        try:
            rows = [conversation_row(talk.turns) for talk in self.talks if talk.turns]
            if not rows:
                conversation_row(())
        except ModelOpsError as error:
            self.say(f"{error.what}: {error.hint}")
            return
        self._into("conversation", partial(self._keep, rows))

    def action_prefer_left(self) -> None:
        """The left answer was better."""
        self._prefer(0)

    def action_prefer_right(self) -> None:
        """The right answer was better."""
        self._prefer(1)

    def action_kept_datasets(self) -> None:
        """Which datasets get the rows that are kept from now on."""

        def preferences() -> None:
            self._ask_name("preference", lambda _: None)

        self._ask_name("conversation", lambda _: preferences())

    def action_add_kept(self) -> None:
        """A new version of each dataset that rows wait for."""
        if not self.waiting:
            self.say("no rows wait; S keeps the conversation, a or b the better of two answers")
            return
        names = [kept.dataset for kept in self.waiting]
        title = f"Add the kept rows to {', '.join(names)}"
        child = Child(["data", "kept", "--add"], [], self.workbench.paths, Task(title))

        def added(versions: Sequence[dict[str, Any]]) -> None:
            told = (f"{v['name']}@{v['version']}: {number(v['rows'])} rows" for v in versions)
            self.say(", ".join(told))
            self.look_for_kept()

        def failed(error: ModelOpsError) -> bool:
            self.work_app.show_error(error)
            self.look_for_kept()
            return True

        self.say(f"{title} ...")
        self.in_thread("add", child.run, added, failed)

    # -- how --------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        if any(talk.answering for talk in self.talks):
            self.say("an answer is still coming; x stops it")
            return True
        return False

    def _prefer(self, side: int) -> None:
        if self._busy():
            return
        turns = [talk.turns for talk in self.talks]
        try:
            # with fewer than two there is no other side, which is what the error says
            worse = turns[1 - side] if len(turns) == 2 else ()
            row = preference_row(turns[side] if side < len(turns) else (), worse)
        except ModelOpsError as error:
            self.say(f"{error.what}: {error.hint}")
            return

        def kept(dataset: str) -> None:
            self._keep([row], dataset)
            # both go on from the better answer: the next preference has one common prompt
            self.talks[1 - side].turns = list(self.talks[side].turns)
            self.refresh_chat()

        self._into("preference", kept)

    def _into(self, kind: str, then: Callable[[str], None]) -> None:
        """``then`` with the dataset for rows of that kind; asked for once."""
        if kind in self._datasets:
            then(self._datasets[kind])
        else:
            self._ask_name(kind, then)

    def _ask_name(self, kind: str, then: Callable[[str], None]) -> None:
        def named(text: str | None) -> None:
            if text:
                self._datasets[kind] = text.strip()
                then(self._datasets[kind])

        hint = "A new name, or a dataset that has such rows. D asks again"
        dialog = LineDialog(
            f"Dataset for each {kind}", hint, self._datasets.get(kind) or DATASETS[kind]
        )
        self.app.push_screen(dialog, named)

    def _keep(self, rows: Sequence[dict[str, Any]], dataset: str) -> None:
        def write() -> int:
            return [self.workbench.kept.keep(dataset, row) for row in rows][-1]

        def written(count: int) -> None:
            some = f"{number(count)} row{'s wait' if count != 1 else ' waits'}"
            self.say(f"kept: {some} for {dataset}. W adds them as a new version")
            self.look_for_kept()

        def failed(error: ModelOpsError) -> bool:
            self._datasets = {k: name for k, name in self._datasets.items() if name != dataset}
            self.work_app.show_error(error)
            return True

        self.in_thread("keep", write, written, failed)
