"""What the Ask screen shows of a conversation: answers, their evidence, every chunk's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from engine.errors import ModelOpsError
from engine.types.rag import Answer, Hit, Retrieval
from screens.prose import heading, paragraph
from screens.text import Line, duration

#: Chunks that are shown with their scores.
SHOWN_CHUNKS = 30


@dataclass
class Exchange:
    """One question and what came of it."""

    question: str
    text: str = ""
    phase: str = "looking for chunks"
    answer: Answer | None = None
    retrieval: Retrieval | None = None
    problem: ModelOpsError | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Which documents were asked: path, tags, since, until."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.answer is not None or self.problem is not None


@dataclass
class Talk:
    """A conversation with one index; ``id`` is what the service remembers it by."""

    exchanges: list[Exchange] = field(default_factory=list)
    id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def last(self) -> Exchange | None:
        """The newest question."""
        return self.exchanges[-1] if self.exchanges else None


def talk_lines(talk: Talk, width: int) -> list[Line]:
    """The newest answer with its evidence, under it what was said before."""
    if talk.last is None:
        return []
    lines = answer_lines(talk.last, width)
    if len(talk.exchanges) > 1:
        lines += heading("Before")
    for exchange in reversed(talk.exchanges[:-1]):
        lines.append([("? ", "accent"), (exchange.question, "bold")])
        said = exchange.answer.text if exchange.answer else "no answer"
        lines += [*paragraph(said, width, "dim"), []]
    return lines


def answer_lines(exchange: Exchange, width: int) -> list[Line]:
    """The question, the answer sentence by sentence with its evidence, the sources."""
    lines: list[Line] = [[("? ", "accent"), (exchange.question, "bold")], []]
    answer = exchange.answer
    if exchange.problem is not None:
        error = exchange.problem
        for text, style in ((error.what, "bad"), (error.why, ""), (error.hint, "dim")):
            lines += paragraph(text, width, style) if text else []
        return lines
    if answer is None:
        return [*lines, *paragraph(exchange.text, width), [(exchange.phase, "dim")]]
    lines += _said(answer, width)
    cited = {c.source for c in answer.quotes or answer.citations}
    if answer.sources:
        lines += heading("Sources" if answer.prompt else "The nearest passages; nothing was sent")
    # of a long conversation, those that the answer rests on come first
    for source in sorted(answer.sources, key=lambda s: s.number not in cited):
        mark = "accent" if source.number in cited else "dim"
        place = [(f"[{source.number}] ", mark), (source.place, "key" if mark == "accent" else "")]
        lines.append([*place, (f"  {source.score:.3f}, {source.tokens} tokens", "dim")])
    return [*lines, [], *_figures(answer, width)]


def _said(answer: Answer, width: int) -> list[Line]:
    lines: list[Line] = []
    if not answer.found:
        lines += paragraph("Not in these documents.", width, "warn")
        return [*lines, *paragraph(answer.reason, width, "dim")]
    for quote in answer.quotes:
        lines += paragraph(f"“{quote.sentence}” [{quote.source}]", width, "good")
    if answer.quotes:
        lines += [[], *paragraph(f"Quoted: {answer.reason}. It wrote:", width, "dim")]
    for item in answer.citations:
        mark = f" [{item.source}]" if item.source else ""
        tail = "" if item.supported else "  not supported by its source"
        if not item.source:
            tail = "  no source supports it"
        style = "warn" if not item.supported else ""
        indent = "  " if answer.quotes else ""
        lines += paragraph(f"{item.sentence}{mark}{tail}", width, style, indent)
    return lines


def _figures(answer: Answer, width: int) -> list[Line]:
    """What the answer took, and whatever was left out of the prompt."""
    took = duration(sum(answer.seconds.get(part, 0.0) for part in ("retrieve", "generate")))
    figures = (
        f"sources {answer.context_tokens} of {answer.budget_tokens} tokens, "
        f"prompt {answer.prompt_tokens}, {answer.model}, {took}"
    )
    lines = paragraph(figures, width, "dim")
    for left in answer.left_out:
        lines += paragraph(f"left out: {left}", width, "dim")
    return lines


def chunk_lines(exchange: Exchange, width: int) -> list[Line]:
    """The chunks that were found: scores before and after they were joined, and their fate."""
    found = exchange.retrieval
    if found is None:
        return [[(exchange.phase, "dim")]]
    shown = f"{len(found.hits)} of {found.candidates} candidates"
    lines: list[Line] = [[(shown, "dim"), ("  words: ", "dim"), (" ".join(found.tokens), "")]]
    lines += [line for w in found.warnings for line in paragraph(w, width, "warn")]
    for place, hit in enumerate(found.hits, 1):
        words = f"{hit.bm25:.2f}" if hit.bm25 is not None else "-"
        what, style = fate(hit, place, exchange.answer)
        lines += [
            [],
            [(f"{place}. ", "accent"), (hit.place, "key")],
            [
                (f"   score {hit.score:.3f}", "bold"),
                (f"   meaning {hit.cosine:.3f} ({hit.cosine_scaled:.2f})", "dim"),
                (f"   words {words} ({hit.bm25_scaled:.2f})", "dim"),
                (f"   {what}", style),
            ],
            *paragraph(hit.text, width, "", "   "),
        ]
    return lines


def fate(hit: Hit, rank: int, answer: Answer | None) -> tuple[str, str]:
    """(what became of a chunk, its style): a source of the prompt, or why it is none."""
    if answer is None:
        return "", "dim"
    if not answer.prompt:
        return "nothing was sent to the model", "dim"
    for source in answer.sources:
        if hit.id in source.chunks:
            return f"source [{source.number}]", "good"
    for left in answer.left_out:
        place, _, why = left.partition(": ")
        if place == hit.place:
            return f"left out: {why}", "warn"
    return f"not among the first that compete for the prompt (rank {rank})", "dim"


def file_lines(chunks: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """The chunks of one file: where they stand, their text, the words that BM25 sees."""
    lines: list[Line] = [[(f"{len(chunks)} chunk{'s' if len(chunks) != 1 else ''}", "dim")]]
    for chunk in chunks:
        place = f"[{chunk['start']}:{chunk['end']}]"
        lines += [
            [],
            [
                (f"#{chunk['number']} ", "accent"),
                (place, "key"),
                (f"  {chunk['tokens']} tokens", "dim"),
            ],
            *(paragraph(chunk["headings"], width, "bold", "   ") if chunk["headings"] else []),
            *paragraph(" ".join(chunk["text"].split()), width, "", "   "),
            *paragraph(f"words: {' '.join(chunk['words'])}", width, "dim", "   "),
        ]
    return lines


def prompt_lines(exchange: Exchange, width: int) -> list[Line]:
    """The exact prompt, as the model was given it."""
    answer: Any = exchange.answer
    if answer is None or not answer.prompt:
        return (
            [[("nothing was sent: no prompt was needed", "dim")]]
            if answer
            else [[(exchange.phase, "dim")]]
        )
    lines: list[Line] = [[(f"{answer.prompt_tokens} tokens", "dim")], []]
    for text in answer.prompt.split("\n"):
        lines += paragraph(text, width)
    return lines
