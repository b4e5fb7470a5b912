"""Answers with verified citations: retrieve, fill a budget, generate under a grammar, check.

The sources stand before the question, so that a follow-up finds them in the prefix cache. Every
sentence ends with the number of an existing source (a grammar sees to it, where the model keeps to
one) and is then checked against it. Where the evidence is weak, the answer is "not in these
documents"; where it is strong and the model did not keep to it, the sources are quoted word for
word instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import BadInput
from engine.types.rag import Answer, Citation, Hit, Passage, Retrieval
from recipes.rag.citations import citation_grammar, read_citations, split_citations
from recipes.rag.context import Context, build_context, source_block
from recipes.rag.model import AnswerModel, Message
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
    passages: tuple[Passage, ...] = ()
    """The sources that came with it."""


@dataclass
class Conversation:
    """The turns that the model still sees."""

    turns: list[Turn] = field(default_factory=list)
    numbered: int = 0
    """The last source number given: a number never comes to mean another source."""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Every source of the turns."""
        return tuple(passage for turn in self.turns for passage in turn.passages)


@dataclass(frozen=True)
class Prompt:
    """What the model is asked, and what had no room."""

    context: Context
    content: str
    messages: tuple[Message, ...]
    text: str
    tokens: int
    left_out: tuple[str, ...]


Emit = Callable[[dict[str, object]], None]


class Asker:
    """Answers questions about one index.

    Args:
        retriever: the pipeline.
        model: who writes the answer.
    """

    def __init__(self, retriever: Retriever, model: AnswerModel) -> None:
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
        weak = weakness(question, retrieval)
        asked = self._prompt(question, retrieval, talk, options)
        passages = (*talk.passages, *asked.context.passages)
        tell({"type": "sources", "sources": [p.place for p in asked.context.passages]})
        found = time.perf_counter()
        if weak or not passages:
            reason = weak or f"no source fits the budget of {options.budget} tokens"
            answer = self._nothing(question, asked, options, reason)
            return _timed(answer, retrieval, found - began, 0.0)
        tell({"type": "phase", "name": "answering"})
        claims = self._generate(asked.messages, [p.number for p in passages], options, tell)
        citations = self.judge.cite(claims, passages)
        quotes: tuple[Citation, ...] = ()
        if sum(c.supported for c in citations) * 2 < max(len(citations), 1):
            # the evidence is there, but the model did not keep to it: let the sources speak
            quotes = self.judge.quotes(question, asked.context.passages or passages)
        said = quotes or citations
        answer = Answer(
            question=question,
            text=" ".join(cited(c) for c in said) or NOT_FOUND,
            found=bool(said),
            citations=citations,
            sources=passages,
            model=self.model.name,
            prompt=asked.text,
            prompt_tokens=asked.tokens,
            budget_tokens=options.budget,
            left_out=asked.left_out,
            reason=_why_quoted(citations) if quotes else "" if said else "the model said nothing",
            quotes=quotes,
            context_tokens=asked.context.tokens,
        )
        talk.turns.append(Turn(question, asked.content, answer.text, asked.context.passages))
        talk.numbered = max([talk.numbered, *(p.number for p in asked.context.passages)])
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
        self, question: str, retrieval: Retrieval, talk: Conversation, options: AskOptions
    ) -> Prompt:
        """What fits the window; whatever has no room is told.

        The oldest turns go first, with their sources (which may then come again); without turns,
        the budget of the sources shrinks.

        Raises:
            BadInput: the question alone is too long.
        """
        count, window = self.model.count, self.model.context
        told: list[str] = []
        budget = options.budget
        while True:
            fresh = self._new_hits(retrieval, talk)
            context = build_context(fresh, budget, count, first_number=talk.numbered + 1)
            content = user_message(question, context.passages)
            messages = _messages(talk, content)
            text = self.model.render(messages)
            tokens = count(text, special=True)
            over = tokens + options.max_tokens - window
            if over <= 0:
                return Prompt(context, content, messages, text, tokens, (*told, *context.left_out))
            if talk.turns:
                gone = talk.turns.pop(0)
                told.append(f"the turn {gone.question!r}: the model's window is full")
            elif context.passages:
                budget = context.tokens - over
                told = [f"sources beyond {max(budget, 0)} tokens: the model's window has {window}"]
            else:
                raise BadInput(
                    "the question does not fit the model's window",
                    why=f"it makes a prompt of {tokens} tokens, the answer may take "
                    f"{options.max_tokens}, the window has {window}",
                    hint="ask in fewer words, or a model with a larger window",
                )

    def _generate(
        self,
        messages: Sequence[Message],
        numbers: Sequence[int],
        options: AskOptions,
        tell: Emit,
    ) -> list[tuple[str, int]]:
        """The sentences the model writes, each with the source it names (0: none)."""
        pieces = []
        rules = ""
        if self.model.constrained:
            rules = citation_grammar(numbers, options.max_sentences)
        for piece in self.model.stream(messages, grammar=rules, max_tokens=options.max_tokens):
            pieces.append(piece)
            tell({"type": "token", "text": piece})
        text = "".join(pieces)
        return split_citations(text) if rules else read_citations(text, numbers)

    def _nothing(
        self,
        question: str,
        asked: Prompt,
        options: AskOptions,
        reason: str,
    ) -> Answer:
        return Answer(
            question=question,
            text=NOT_FOUND,
            found=False,
            citations=(),
            sources=asked.context.passages,
            model=self.model.name,
            prompt="",
            prompt_tokens=0,
            budget_tokens=options.budget,
            left_out=asked.left_out,
            reason=reason,
            context_tokens=asked.context.tokens,
        )


def _messages(talk: Conversation, content: str) -> tuple[Message, ...]:
    messages: list[Message] = [{"role": "system", "content": SYSTEM}]
    for turn in talk.turns:
        messages.append({"role": "user", "content": turn.content})
        messages.append({"role": "assistant", "content": turn.reply})
    return (*messages, {"role": "user", "content": content})


def cited(citation: Citation) -> str:
    """A sentence with its mark, where a source was named or found."""
    mark = f" [{citation.source}]" if citation.source else ""
    return f"{citation.sentence}{mark}"


def _why_quoted(citations: Sequence[Citation]) -> str:
    if not citations:
        return "the model wrote no whole sentence"
    return "most of what the model wrote is not supported by the sources"


def _timed(answer: Answer, retrieval: Retrieval, search: float, generate: float) -> Answer:
    from dataclasses import replace

    seconds = {**retrieval.seconds, "retrieve": search, "generate": generate}
    times = {name: round(value, 4) for name, value in seconds.items()}
    return replace(answer, seconds=times, searched=retrieval.query)


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
