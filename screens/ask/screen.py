"""Questions to document indexes: the answer with its citations, the chunks with every score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from textual.message import Message

from engine.types.rag import Answer, IndexView, Retrieval
from screens.actions import bindings
from screens.detail_screen import DetailScreen
from screens.prose import fact_columns, heading, paragraph, table
from screens.text import Line, ago, duration, number, size
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

#: Seconds between repaints while an answer streams in.
REPAINT_S = 0.2


@dataclass
class AnswerGrew(Message):
    """More of an answer is there."""

    text: str
    phase: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, AnswerGrew)


@dataclass
class Exchange:
    """One question and what came of it."""

    question: str
    text: str = ""
    phase: str = "looking for chunks"
    answer: Answer | None = None
    retrieval: Retrieval | None = None
    earlier: list[tuple[str, str]] = field(default_factory=list)


class AskScreen(DetailScreen):
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
        self.exchange: Exchange | None = None

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
        exchange = self.exchange
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
        if exchange is None:
            return lambda width: [[(f"i asks {item.name} a question", "dim")]]
        if pane == "chunks":
            return partial(chunk_lines, exchange)
        if pane == "prompt":
            prompt = exchange.answer.prompt if exchange.answer else ""
            return lambda width: paragraph(prompt or "no prompt was sent yet", width)
        return partial(answer_lines, exchange)

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
        last = self.exchange.question if self.exchange else ""
        self.ask_line(f"Ask {self.item.name}", "Plain words; sources are cited.", self._ask, last)

    def _ask(self, question: str) -> None:
        index: IndexView = self.item
        self.exchange = Exchange(question)
        self.deck.show("answer")
        self._show_exchange()
        self.in_thread("answer", partial(self._answer, index.name, question), self._answered)

    def _answer(self, index: str, question: str) -> tuple[Answer | None, Retrieval]:
        import time

        rag = self.workbench.rag
        found = rag.search(index, question, 10)
        text, phase, told, answer = "", "reading", 0.0, None
        for event in rag.ask(index, question):
            if "result" in event:
                answer = event["result"]
            elif event.get("type") == "token":
                text += str(event.get("text", ""))
                phase = "writing"
            elif event.get("type") == "phase":
                phase = str(event.get("name", phase))
            if time.monotonic() - told > REPAINT_S:
                told = time.monotonic()
                self.post_message(AnswerGrew(text, phase))
        return answer, found

    def on_answer_grew(self, event: AnswerGrew) -> None:
        if self.exchange is not None and self.exchange.answer is None:
            self.exchange.text, self.exchange.phase = event.text, event.phase
            self._show_exchange()

    def _answered(self, outcome: tuple[Answer | None, Retrieval]) -> None:
        if self.exchange is not None:
            self.exchange.answer, self.exchange.retrieval = outcome
            self._show_exchange()

    def _show_exchange(self) -> None:
        if self.deck.current in ("answer", "chunks", "prompt"):
            self.load_pane()

    def action_sync_index(self) -> None:
        if self.item is not None and self.item.folder:
            self._sync(self.item.folder, self.item.name)
            return

        def foldered(folder: str) -> None:
            self.ask_line("Name of the index", "", partial(self._sync, folder), "docs")

        hint = "`docs` is the bundled documentation"
        self.ask_line("Folder of documents", hint, foldered, "docs")

    def _sync(self, folder: str, name: str) -> None:
        def work() -> dict[str, Any]:
            result: dict[str, Any] = {}
            for event in self.workbench.rag.sync(folder, name):
                result = event.get("result") or result
            return result

        def done(report: dict[str, Any]) -> None:
            figures = ", ".join(f"{k} {v}" for k, v in report.items() if isinstance(v, int))
            self.say(f"{name} is up to date: {figures}")
            self.action_reload()

        self.in_thread("sync", work, done)
        self.say(f"indexing {folder}")

    def command_twin(self) -> str:
        import shlex

        if self.item is None:
            return "modelops-tui rag sync docs --name docs"
        if self.exchange is None:
            return f"modelops-tui rag inspect {self.item.name}"
        return f"modelops-tui rag ask {self.item.name} {shlex.quote(self.exchange.question)}"


def answer_lines(exchange: Exchange, width: int) -> list[Line]:
    """The question, the answer sentence by sentence with its evidence, the sources."""
    lines: list[Line] = [[("? ", "accent"), (exchange.question, "bold")], []]
    answer = exchange.answer
    if answer is None:
        return [*lines, *paragraph(exchange.text, width), [(exchange.phase, "dim")]]
    if not answer.found:
        lines += paragraph("Not in these documents.", width, "warn")
        lines += paragraph(answer.reason, width, "dim")
    elif answer.citations:
        for item in answer.citations:
            mark = f"[{item.source}]" if item.source else "[no source]"
            tail = mark if item.supported else f"{mark} not supported by its source"
            lines += paragraph(f"{item.sentence} {tail}", width, "" if item.supported else "warn")
    else:
        lines += paragraph(answer.text, width)
    for quote in answer.quotes:
        lines += paragraph(f"“{quote.sentence}” [{quote.source}]", width, "good", "  ")
    if answer.sources:
        lines += heading("Sources")
    for source in answer.sources:
        lines.append(
            [
                (f"[{source.number}] ", "accent"),
                (source.place, "key"),
                (f"  {source.score:.3f}", "dim"),
            ]
        )
    took = duration(sum(answer.seconds.values()))
    figures = f"{answer.model}, {answer.prompt_tokens} of {answer.budget_tokens} tokens, {took}"
    lines += [[], [(figures, "dim")]]
    for item_left in answer.left_out:
        lines += paragraph(f"left out: {item_left}", width, "dim")
    return lines


def chunk_lines(exchange: Exchange, width: int) -> list[Line]:
    """Every chunk that was found, with the scores before and after they were joined."""
    found = exchange.retrieval
    if found is None:
        return [[(exchange.phase, "dim")]]
    lines: list[Line] = [[(f"{len(found.hits)} of {found.candidates} candidates", "dim")]]
    lines += [line for w in found.warnings for line in paragraph(w, width, "warn")]
    for place, hit in enumerate(found.hits, 1):
        words = f"{hit.bm25:.2f}" if hit.bm25 is not None else "-"
        lines += [
            [],
            [(f"{place}. ", "accent"), (hit.place, "key")],
            [
                (f"   score {hit.score:.3f}", "bold"),
                (f"   meaning {hit.cosine:.3f} ({hit.cosine_scaled:.2f})", "dim"),
                (f"   words {words} ({hit.bm25_scaled:.2f})", "dim"),
            ],
            *paragraph(hit.text, width, "", "   "),
        ]
    return lines


SCREEN = AskScreen
