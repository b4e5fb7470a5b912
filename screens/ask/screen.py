"""Questions to document indexes: the answer with its citations, the chunks with every score."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from textual.message import Message

from engine.errors import ModelOpsError
from engine.types.rag import Answer, FileView, IndexView, Retrieval
from engine.types.serving import DeploymentView
from screens.actions import bindings
from screens.ask.lines import (
    SHOWN_CHUNKS,
    Exchange,
    Talk,
    chunk_lines,
    file_lines,
    prompt_lines,
    talk_lines,
)
from screens.ask.measuring import AskMeasure
from screens.dialogs import ChoiceDialog, LineDialog, TextDialog
from screens.prose import fact_columns, paragraph, table
from screens.text import Line, ago, number, size
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

#: Seconds between repaints while an answer streams in.
REPAINT_S = 0.2
#: Who answers unless another is chosen.
PACKAGED = "smollm2-135m-instruct"
_FILTERS = "path=*.md tag=hr since=2026-01-31 until=2026-06-30; empty: all"


@dataclass
class AnswerGrew(Message):
    """More of an answer is there."""

    exchange: Exchange
    text: str
    phase: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, AnswerGrew)


class AskScreen(AskMeasure):
    """The models run in a service process; it is kept for the next question."""

    NAME = "ask"
    BINDINGS = bindings("ask")
    COLUMNS: ClassVar = (
        Column("index", 20),
        Column("documents", 9, right=True),
        Column("chunks", 8, right=True),
        Column("unread", 6, right=True, drop=3),
        Column("size", 9, right=True, drop=4),
        Column("synced", 7, right=True, drop=2),
        Column("folder", 0, drop=1),
    )
    PANES: ClassVar = (
        ("answer", "Answer"),
        ("chunks", "Chunks"),
        ("prompt", "Prompt"),
        ("files", "Files"),
        ("index", "Index"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.model = ""
        """Who answers: a deployment or a model; empty: the packaged one."""
        self.filters: dict[str, Any] = {}
        """Which documents the next questions are asked of: path, tags, since, until."""
        self.talks: dict[str, Talk] = {}

    @property
    def talk(self) -> Talk:
        """The conversation with the chosen index."""
        return self.talks.setdefault(self.item.name if self.item else "", Talk())

    @property
    def exchange(self) -> Exchange | None:
        """The newest question to the chosen index."""
        return self.talk.last

    def fetch(self) -> Sequence[Row]:
        now = self.work_app.clock()
        return [
            Row(
                view.name,
                (
                    (view.name, "bold"),
                    (number(view.documents), ""),
                    (number(view.chunks), ""),
                    (str(view.unreadable or ""), "warn"),
                    (size(view.size_bytes), "dim"),
                    (ago(view.updated, now), "dim"),
                    (view.stale or view.folder, "warn" if view.stale else "dim"),
                ),
                view,
                (view.name, view.documents, view.chunks, view.unreadable, view.size_bytes),
            )
            for view in self.workbench.rag.list()
        ]

    def pane_lines(self, pane: str, item: IndexView) -> Build:
        talk = self.talks.get(item.name, Talk())
        if pane == "files":
            files = self.workbench.rag.files(item.name)
            return lambda width: table(
                ("file", "state", "chunks", "size", "remark"),
                [(f.path, f.status, f.chunks, size(f.size_bytes), f.reason) for f in files],
                width,
                "key",
            )
        if pane == "index":
            return lambda width: fact_columns(
                [
                    ("name", item.name),
                    ("folder", item.folder),
                    ("documents", item.documents),
                    ("chunks", item.chunks),
                    ("unreadable", item.unreadable or None),
                    ("embedding", item.model),
                    ("generation", item.generation),
                    ("size", size(item.size_bytes)),
                    ("artifact", item.manifest),
                ],
                width,
            )
        if talk.last is None:
            return lambda width: paragraph(
                f"i asks {item.name} a question; m chooses who answers: {self._writer}.", width
            )
        if pane == "chunks":
            return partial(chunk_lines, talk.last)
        if pane == "prompt":
            return partial(prompt_lines, talk.last)
        return partial(talk_lines, talk)

    @property
    def _writer(self) -> str:
        return self.model or PACKAGED

    def empty_lines(self, width: int) -> list[Line]:
        return [
            [("No folder was indexed yet.", "bold")],
            [],
            *paragraph(
                "u indexes a folder of documents (PDF, Office, HTML, Markdown, code). `docs` is the"
                " documentation that comes with the program.",
                min(76, width),
            ),
        ]

    # -- actions ----------------------------------------------------------------------------------

    def action_ask_question(self) -> None:
        if self.item is None:
            self.say("there is no index to ask yet: u makes one")
            return
        if self.exchange is not None and not self.exchange.over:
            self.say("the answer before is still being written")
            return
        hint = f"{self._writer} answers, with its sources"
        if self.filters:
            hint += f"; only from {' '.join(_filter_words(self.filters))}"
        if self.talk.exchanges:
            hint += "; what was said is remembered, c begins anew"
        self.ask_line(f"Ask {self.item.name}", hint, self._ask)

    def action_answer_model(self) -> None:
        """Ask who answers: the deployments of this machine are named."""

        def chosen(text: str) -> None:
            self.model = "" if text == PACKAGED else text
            self.say(f"{self._writer} answers")
            self._show_exchange()

        def listed(views: Sequence[DeploymentView]) -> None:
            names = ", ".join(f"{view.name} ({view.state})" for view in views)
            hint = f"Deployments: {names or 'none'}. Or a model of the registry, a folder, a file."
            self.ask_line("Who answers?", hint, chosen, self._writer)

        def chats() -> list[DeploymentView]:
            return [view for view in self.workbench.serving.list() if view.task == "chat"]

        self.in_thread("models", chats, listed)

    def action_new_talk(self) -> None:
        """Forget what was said to the chosen index."""
        if self.item is not None:
            self.talks.pop(self.item.name, None)
            self._show_exchange()

    def _ask(self, question: str) -> None:
        exchange, talk = Exchange(question, filters=dict(self.filters)), self.talk
        talk.exchanges.append(exchange)
        self.deck.show("answer")
        self._show_exchange()

        def answered(outcome: tuple[Answer | None, Retrieval | None]) -> None:
            exchange.answer, exchange.retrieval = outcome
            self._show_exchange()

        def failed(error: ModelOpsError) -> bool:
            exchange.problem = error
            self._show_exchange()
            return True

        work = partial(self._answer, self.item.name, talk.id, exchange)
        self.in_thread("answer", work, answered, failed)

    def _answer(
        self, index: str, talk_id: str, exchange: Exchange
    ) -> tuple[Answer | None, Retrieval | None]:
        import time

        rag = self.workbench.rag
        text, phase, told, answer = "", "reading", 0.0, None
        question, model = exchange.question, self.model
        for event in rag.ask(
            index, question, model=model, conversation=talk_id, **exchange.filters
        ):
            if "result" in event:
                answer = event["result"]
            elif event.get("type") == "token":
                text += str(event.get("text", ""))
                phase = "writing"
            elif event.get("type") == "phase":
                phase = str(event.get("name", phase))
            if time.monotonic() - told > REPAINT_S:
                told = time.monotonic()
                self.post_message(AnswerGrew(exchange, text, phase))
        searched = answer.searched if answer else question
        return answer, rag.search(index, searched, SHOWN_CHUNKS, **exchange.filters)

    def on_answer_grew(self, event: AnswerGrew) -> None:
        if not event.exchange.over:
            event.exchange.text, event.exchange.phase = event.text, event.phase
            self._show_exchange()

    def _show_exchange(self) -> None:
        if self.deck.current in ("answer", "chunks", "prompt"):
            self.load_pane()

    def action_file_chunks(self) -> None:
        """Choose a file of the index; see its chunks, their offsets and the words BM25 sees."""
        item = self.item
        if item is None:
            self.say("there is no index to look into yet: u makes one")
            return

        def listed(files: Sequence[FileView]) -> None:
            columns = (Column("file", 0), Column("chunks", 7, right=True), Column("state", 12))
            rows = [
                Row(f.path, ((f.path, "key"), (number(f.chunks), ""), (f.status, "dim")), f)
                for f in files
            ]
            title = f"Chunks of which file of {item.name}?"
            dialog = ChoiceDialog(title, columns, rows, "this index knows no file")
            self.app.push_screen(dialog, chosen)

        def chosen(path: str | None) -> None:
            if path:
                self.in_thread("file", partial(read, path), partial(show, path))

        def read(path: str) -> dict[str, Any]:
            return self.workbench.rag.inspect(item.name, file=path)

        def show(path: str, found: dict[str, Any]) -> None:
            if self.is_current:
                dialog = TextDialog(f"{item.name}: {path}", partial(file_lines, found["chunks"]))
                self.app.push_screen(dialog)

        self.in_thread("files", partial(self.workbench.rag.files, item.name), listed)

    def action_ask_filter(self) -> None:
        """Which documents questions are asked of: by path, tag and day."""

        def chosen(text: str | None) -> None:
            if text is None:
                return
            try:
                self.filters = filters_of(text)
            except ValueError as error:
                self.say(f"{error}. {_FILTERS}")
                return
            self._show_filters()

        now = " ".join(_filter_words(self.filters))
        self.app.push_screen(LineDialog("Only which documents?", _FILTERS, now), chosen)

    def _show_filters(self) -> None:
        if self.filters:
            self.say(f"only documents with {' '.join(_filter_words(self.filters))} are asked")
        else:
            self.say("all documents are asked")

    def command_twin(self) -> str:
        if self.item is None:
            return "modelops-tui rag sync docs --name docs"
        if self.exchange is None:
            return shlex.join(["modelops-tui", "rag", "inspect", self.item.name])
        words = ["modelops-tui", "rag", "ask", self.item.name, self.exchange.question]
        words += ["--model", self.model] if self.model else []
        for word in _filter_words(self.exchange.filters):
            name, _, value = word.partition("=")
            words += [f"--{name}", value]
        return shlex.join(words)


def filters_of(text: str) -> dict[str, Any]:
    """``path=*.md tag=hr since=2026-01-31`` as what a search takes; a tag may stand twice.

    Raises:
        ValueError: a word is no filter.
    """
    found: dict[str, Any] = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if not value or name not in ("path", "tag", "since", "until"):
            raise ValueError(f"{word!r} is no filter")
        if name == "tag":
            found.setdefault("tags", []).append(value)
        else:
            found[name] = value
    return found


def _filter_words(filters: Mapping[str, Any]) -> list[str]:
    words = [f"{name}={value}" for name, value in filters.items() if name != "tags"]
    return [*words, *(f"tag={tag}" for tag in filters.get("tags", ()))]


SCREEN = AskScreen
