"""Answers with verified citations: retrieve, fill a budget, generate under a grammar, check.

The sources stand before the question, so that a follow-up finds them in the prefix cache. Every
sentence ends with the number of an existing source (the grammar sees to it) and is then checked
against it. Where the evidence is weak, the answer is "not in these documents"; where it is strong
and the model did not keep to it, the sources are quoted word for word instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.types.rag import Answer, Citation, Hit, Passage, Retrieval
from recipes.rag.context import build_context, source_block
from recipes.rag.model import LocalModel, Message
from recipes.rag.retrieve import Filters, Retriever, Settings
from recipes.rag.support import Judge, content_words

NOT_FOUND = "Not in these documents."
#: Below these the evidence is weak: nothing is generated. Set between 100 answerable questions on
#: docsqa and 225 that it can't answer (benchmarks/rag_answers.py).
MIN_COSINE = 0.35
MIN_COVERAGE = 0.40

SYSTEM = (
    "You answer questions about the user's documents. Use only the numbered sources. "
    "Answer in one to three short sentences and end each with the number of its source, like [1]."
)
_CITED = re.compile(r"\s*(.+?)\s*\[(\d+)\]\.?", re.DOTALL)


@dataclass(frozen=True)
class AskOptions:
    """How to answer. ``budget`` counts tokens of the sources; ``k`` hits compete for it."""

    k: int = 8
    budget: int = 800
    max_sentences: int = 3
    max_tokens: int = 220
    filters: Filters = field(default_factory=Filters)
    settings: Settings = field(default_factory=Settings)


@dataclass
class Turn:
    """One question of a conversation with what was said to it."""

    question: str
    content: str
    """The user's message: new sources, then the question."""
    reply: str


@dataclass
class Conversation:
    """The turns so far and every source they were given."""

    turns: list[Turn] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)


Emit = Callable[[dict[str, object]], None]


class Asker:
    """Answers questions about one index.

    Args:
        retriever: the pipeline.
        model: who writes the answer.
    """

    def __init__(self, retriever: Retriever, model: LocalModel) -> None:
        self.retriever = retriever
        self.model = model
        self.judge = Judge(retriever.embedder)

    def ask(
        self,
        question: str,
        options: AskOptions | None = None,
        conversation: Conversation | None = None,
        emit: Emit | None = None,
    ) -> Answer:
        """Answer one question.

        Args:
            question: in plain words.
            options: how much to retrieve and to write.
            conversation: earlier turns; this one is added.
            emit: gets ``sources``, ``token`` and ``phase`` events while the answer is made.

        Raises:
            BadInput: an empty question.
        """
        options = options or AskOptions()
        talk = conversation if conversation is not None else Conversation()
        tell = emit or (lambda event: None)
        began = time.perf_counter()
        retrieval = self._retrieve(question, options, talk)
        fresh = self._new_hits(retrieval, talk)
        context = build_context(
            fresh, options.budget, self.model.count, first_number=len(talk.passages) + 1
        )
        passages = (*talk.passages, *context.passages)
        tell({"type": "sources", "sources": [p.place for p in context.passages]})
        weak = weakness(question, retrieval)
        found = time.perf_counter()
        if weak or not passages:
            answer = self._nothing(question, passages, context.left_out, options, weak)
            return _timed(answer, retrieval, found - began, 0.0)
        content = user_message(question, context.passages)
        prompt, dropped = self._prompt(talk, content, options)
        tell({"type": "phase", "name": "answering"})
        text = self._generate(prompt, [p.number for p in passages], options, tell)
        citations = self.judge.cite(split_citations(text), passages)
        quotes: tuple[Citation, ...] = ()
        if sum(c.supported for c in citations) * 2 < max(len(citations), 1):
            # the evidence is there, but the model did not keep to it: let the sources speak
            quotes = self.judge.quotes(question, context.passages or passages)
        said = quotes or citations
        answer = Answer(
            question=question,
            text=" ".join(f"{c.sentence} [{c.source}]" for c in said) or NOT_FOUND,
            found=bool(said),
            citations=citations,
            sources=passages,
            model=self.model.name,
            prompt=prompt,
            prompt_tokens=self.model.count(prompt),
            budget_tokens=options.budget,
            left_out=(*context.left_out, *dropped),
            reason="most of what the model wrote is not supported by the sources" if quotes else "",
            quotes=quotes,
        )
        talk.turns.append(Turn(question, content, answer.text))
        talk.passages.extend(context.passages)
        return _timed(answer, retrieval, found - began, time.perf_counter() - found)

    def _retrieve(self, question: str, options: AskOptions, talk: Conversation) -> Retrieval:
        """A follow-up is searched together with the question before it: "and how fast is it?"."""
        asked = question
        if talk.turns and len(content_words(question)) < 4:
            asked = f"{talk.turns[-1].question} {question}"
        return self.retriever.search(asked, options.k, options.filters, options.settings)

    @staticmethod
    def _new_hits(retrieval: Retrieval, talk: Conversation) -> list[Hit]:
        known = {chunk for passage in talk.passages for chunk in passage.chunks}
        return [hit for hit in retrieval.hits if hit.id not in known]

    def _prompt(
        self, talk: Conversation, content: str, options: AskOptions
    ) -> tuple[str, list[str]]:
        """The rendered prompt; the oldest turns go when the window is full, and that is told."""
        dropped: list[str] = []
        turns = list(talk.turns)
        while True:
            messages: list[Message] = [{"role": "system", "content": SYSTEM}]
            for turn in turns:
                messages.append({"role": "user", "content": turn.content})
                messages.append({"role": "assistant", "content": turn.reply})
            messages.append({"role": "user", "content": content})
            prompt = self.model.render(messages)
            if self.model.count(prompt) + options.max_tokens <= self.model.context or not turns:
                return prompt, dropped
            dropped.append(f"the turn {turns[0].question!r}: the model's window is full")
            turns.pop(0)

    def _generate(
        self, prompt: str, numbers: Sequence[int], options: AskOptions, tell: Emit
    ) -> str:
        pieces = []
        rules = citation_grammar(numbers, options.max_sentences)
        for piece in self.model.stream(prompt, grammar=rules, max_tokens=options.max_tokens):
            pieces.append(piece)
            tell({"type": "token", "text": piece})
        return "".join(pieces)

    def _nothing(
        self,
        question: str,
        passages: Sequence[Passage],
        left_out: Sequence[str],
        options: AskOptions,
        reason: str,
    ) -> Answer:
        return Answer(
            question=question,
            text=NOT_FOUND,
            found=False,
            citations=(),
            sources=tuple(passages),
            model=self.model.name,
            prompt="",
            prompt_tokens=0,
            budget_tokens=options.budget,
            left_out=tuple(left_out),
            reason=reason or "nothing was found",
        )


def _timed(answer: Answer, retrieval: Retrieval, search: float, generate: float) -> Answer:
    from dataclasses import replace

    seconds = {**retrieval.seconds, "retrieve": search, "generate": generate}
    return replace(answer, seconds={k: round(v, 4) for k, v in seconds.items()})


def weakness(question: str, retrieval: Retrieval) -> str:
    """Why the evidence can't answer the question, or empty.

    Weak is: no chunk is near by meaning, and the best chunks hold few of the question's words.
    """
    if not retrieval.hits:
        return "nothing was found"
    best = max(hit.cosine for hit in retrieval.hits)
    wanted = set(content_words(question))
    held = {w for hit in retrieval.hits[:5] for w in content_words(f"{hit.headings} {hit.text}")}
    coverage = len(wanted & held) / len(wanted) if wanted else 1.0
    if best < MIN_COSINE or coverage < MIN_COVERAGE:
        return f"the nearest passage has cosine {best:.2f} and {coverage:.0%} of the words"
    return ""


def user_message(question: str, passages: Sequence[Passage]) -> str:
    """The sources, then the question."""
    blocks = [source_block(p.number, p.path, p.headings, p.text) for p in passages]
    sources = "Sources:\n" + "\n".join(blocks) + "\n" if blocks else ""
    return f"{sources}Question: {question.strip()}"


def citation_grammar(numbers: Sequence[int], sentences: int) -> str:
    """GBNF: one to ``sentences`` sentences, each ending with ``[n]`` of an existing source."""
    ids = " | ".join(f'"{n}"' for n in numbers)
    return (
        f'root ::= sentence (" " sentence){{0,{max(sentences - 1, 0)}}}\n'
        'sentence ::= [A-Z`] text [.!?]? " [" id "]"\n'
        # a full stop inside is followed by no space: after a sentence comes its source
        'text ::= ([^\\[\\]\\n.!?] | "." [^ \\[\\]\\n.]){12,200}\n'
        f"id ::= {ids}\n"
    )


def split_citations(text: str) -> list[tuple[str, int]]:
    """(sentence, number) of an answer that follows the grammar; an unfinished end is left out."""
    return [(m[1].strip(), int(m[2])) for m in _CITED.finditer(text)]
