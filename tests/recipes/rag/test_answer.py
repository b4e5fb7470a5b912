from __future__ import annotations

from pathlib import Path

import pytest

from engine.models import resolve_model
from engine.paths import StatePaths
from engine.types.rag import Hit, Passage
from recipes.rag.answer import (
    NOT_FOUND,
    Asker,
    AskOptions,
    Conversation,
    citation_grammar,
    split_citations,
)
from recipes.rag.context import build_context, join
from recipes.rag.embedding import Embedder
from recipes.rag.model import LocalModel
from recipes.rag.pipeline import Job, sync_index
from recipes.rag.retrieve import Retriever
from recipes.rag.store import open_index
from recipes.rag.support import Judge, lexical_support, sentences


def hit(number: int, start: int, text: str, path: str = "a.md", score: float = 1.0) -> Hit:
    return Hit(
        id=f"{path}:{number}", path=path, number=number, start=start, end=start + len(text),
        headings="H", text=text, score=score, cosine=0.5, cosine_scaled=0.5, bm25=1.0,
        bm25_scaled=1.0, bm25_rank=1, dense_rank=1,
    )  # fmt: skip


def passage(text: str, number: int = 1) -> Passage:
    return Passage(number, "a.md", "Food", 100, 100 + len(text), text, 1.0, 20)


def words(text: str) -> int:
    return len(text.split())


def test_neighbours_are_joined_and_what_they_share_stands_once() -> None:
    whole = "one two three four five six seven eight"
    first, second = hit(0, 0, whole[:23]), hit(1, 14, whole[14:])
    assert join([second, first]) == (0, len(whole), whole)
    context = build_context([first, second, hit(5, 900, "far away")], 100, words)
    assert [p.text for p in context.passages] == [whole, "far away"]
    assert [p.number for p in context.passages] == [1, 2]


def test_what_does_not_fit_is_told_and_later_hits_may_still_fit() -> None:
    long = "word " * 50
    context = build_context(
        [hit(0, 0, "short one"), hit(3, 50, long), hit(7, 900, "tiny")], 20, words
    )
    assert [p.text for p in context.passages] == ["short one", "tiny"]
    assert len(context.left_out) == 1
    assert "tokens" in context.left_out[0]
    assert context.tokens <= 20


def test_the_grammar_only_allows_existing_sources() -> None:
    from llama_cpp import LlamaGrammar

    text = citation_grammar([1, 2, 12], 3)
    assert '"1" | "2" | "12"' in text
    assert LlamaGrammar.from_string(text, verbose=False) is not None


def test_citations_are_split_and_an_unfinished_end_is_dropped() -> None:
    text = "Cats purr. [1] They sleep v1.2 a day [12]. And then"
    assert split_citations(text) == [("Cats purr.", 1), ("They sleep v1.2 a day", 12)]


def test_a_number_that_the_source_lacks_is_no_support() -> None:
    assert lexical_support("It needs 4 GB of memory", "It needs 3 GB of memory") == 0
    assert lexical_support("It needs 3 GB of memory", "It needs 3 GB of memory") == 1


def test_wrapped_lines_are_one_sentence_and_list_items_are_several() -> None:
    assert sentences("A line that\nwraps. Next.\n\n- one\n- two") == [
        "A line that wraps.", "Next.", "- one", "- two",
    ]  # fmt: skip


def test_a_citation_moves_to_the_source_that_supports_it(embedder: Embedder) -> None:
    sources = [passage("Cats sleep sixteen hours a day.", 1), passage("Penguins eat krill.", 2)]
    (good, wrong, invented) = Judge(embedder).cite(
        [("Penguins eat krill.", 2), ("Penguins eat krill.", 1), ("Dogs chase red cars.", 1)],
        sources,
    )
    assert (good.supported, good.source) == (True, 2)
    assert (wrong.supported, wrong.source) == (True, 2)
    assert not invented.supported


def test_quotes_point_at_their_characters(embedder: Embedder) -> None:
    text = "Nothing of interest here today.\nPenguins eat krill\nand squid. More words follow here."
    (quote, *_) = Judge(embedder).quotes("what do penguins eat", [passage(text)], 1)
    assert quote.sentence == "Penguins eat krill and squid."
    assert text[quote.start - 100 : quote.end - 100] == "Penguins eat krill\nand squid."


@pytest.fixture
def asker(paths: StatePaths, library: Path, embedder: Embedder) -> Asker:
    sync_index(Job("library", library), paths)
    model = LocalModel(resolve_model("smollm2-135m-instruct", paths), threads=1)
    return Asker(Retriever(open_index("library", paths), embedder), model)


def test_weak_evidence_is_not_in_these_documents(asker: Asker) -> None:
    answer = asker.ask("Who won the football world cup in 1998?")
    assert (answer.found, answer.text) == (False, NOT_FOUND)
    assert "cosine" in answer.reason
    assert answer.prompt_tokens == 0, "nothing was generated"


@pytest.mark.slow
def test_an_answer_with_verified_sources_and_a_follow_up(asker: Asker) -> None:
    talk, events = Conversation(), []
    answer = asker.ask("What do penguins eat?", AskOptions(budget=300), talk, events.append)
    assert answer.found
    said = answer.quotes or answer.citations
    assert any(c.supported and c.path == "animals/penguins.md" for c in said)
    assert "krill" in answer.text
    assert answer.prompt.index("Sources:") < answer.prompt.index("Question:")
    assert [e["type"] for e in events][:2] == ["sources", "phase"]
    follow = asker.ask("And can they fly?", AskOptions(budget=300), talk)
    assert follow.prompt.startswith(answer.prompt[: answer.prompt.index("Question:")])
    assert len(talk.turns) == 2
