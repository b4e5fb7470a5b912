from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths
from engine.types.rag import Hit, Passage
from recipes.rag.answer import (
    NOT_FOUND,
    Asker,
    AskOptions,
    Conversation,
)
from recipes.rag.citations import citation_grammar, split_citations
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
    model = LocalModel.of(resolve_model("smollm2-135m-instruct", paths), paths, threads=1)
    return Asker(Retriever(open_index("library", paths), embedder), model)


def test_weak_evidence_is_not_in_these_documents(asker: Asker) -> None:
    answer = asker.ask("Who won the football world cup in 1998?")
    assert (answer.found, answer.text) == (False, NOT_FOUND)
    assert "cosine" in answer.reason
    assert answer.prompt_tokens == 0, "nothing was generated"


@pytest.mark.slow
def test_an_answer_with_verified_sources_and_a_follow_up(asker: Asker) -> None:
    talk = Conversation()
    events: list[dict[str, object]] = []
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


PENGUINS = "What do penguins eat?"


@pytest.fixture
def tiny_asker(paths: StatePaths, library: Path, embedder: Embedder, tiny_gguf: Path) -> Asker:
    """A real pipeline with a model that writes nonsense, quickly, in a window of 512 tokens."""
    more = " ".join(f"Penguins of colony {n} eat {n} squid a day." for n in range(40))
    (library / "colonies.md").write_text(f"# Colonies\n\n{more}\n")
    sync_index(Job("library", library), paths)
    model = LocalModel(tiny_gguf, "tiny", threads=1)
    return Asker(Retriever(open_index("library", paths), embedder), model)


def test_sources_never_take_more_than_the_budget_and_the_rest_is_told(tiny_asker: Asker) -> None:
    answer = tiny_asker.ask(PENGUINS, AskOptions(budget=120, max_tokens=40))
    assert 0 < answer.context_tokens <= answer.budget_tokens == 120
    assert answer.context_tokens == sum(s.tokens for s in answer.sources)
    assert any("were left" in told for told in answer.left_out)
    for source in answer.sources:
        assert source.text in answer.prompt, "whole, as the index has it"
    small = tiny_asker.ask(PENGUINS, AskOptions(budget=10, max_tokens=40))
    assert not small.found
    assert small.reason == "no source fits the budget of 10 tokens"
    assert small.left_out


def test_a_window_smaller_than_the_budget_is_told(tiny_asker: Asker) -> None:
    answer = tiny_asker.ask(PENGUINS, AskOptions(budget=5_000, max_tokens=40))
    assert answer.prompt_tokens + 40 <= 512, "nothing is cut off by the model"
    assert "the model's window has 512" in answer.left_out[0]
    assert len(answer.left_out) > 1
    assert answer.sources
    with pytest.raises(BadInput, match="does not fit the model's window"):
        tiny_asker.ask("What do penguins eat? " * 60, AskOptions(max_tokens=40))


def test_a_conversation_is_remembered_until_the_window_is_full(tiny_asker: Asker) -> None:
    talk, options = Conversation(), AskOptions(budget=70, max_tokens=40)
    first = tiny_asker.ask(PENGUINS, options, talk)
    assert first.sources
    second = tiny_asker.ask("How long do cats sleep?", options, talk)
    assert second.prompt.startswith(first.prompt), "what was said stays as it was"
    assert first.text in second.prompt
    assert PENGUINS in second.prompt
    assert not second.left_out or "the turn" not in second.left_out[0]
    numbers = [s.number for s in second.sources]
    assert numbers == list(range(1, len(numbers) + 1)), "they go on counting"
    # a follow-up is searched with the question before it
    assert "cats.md" in " ".join(s.path for s in tiny_asker.ask("And when?", options, talk).sources)

    gone: list[str] = []
    for degrees in range(10):
        last = tiny_asker.ask(f"How is bread dough baked at {degrees} degrees?", options, talk)
        gone += [told for told in last.left_out if told.startswith("the turn")]
        if gone:
            break
    assert gone[0] == f"the turn {PENGUINS!r}: the model's window is full"
    assert PENGUINS not in last.prompt
    assert last.prompt_tokens + options.max_tokens <= 512
    shown = {s.number for s in last.sources}
    assert not shown & {s.number for s in first.sources}, "a source that is gone is not cited"
    again = tiny_asker.ask(PENGUINS, options, talk)
    assert {s.chunks for s in first.sources} & {s.chunks for s in again.sources}, "it comes again"
    assert not {s.number for s in again.sources} & {s.number for s in first.sources}


def test_another_conversation_knows_nothing_of_it(tiny_asker: Asker) -> None:
    options = AskOptions(budget=70, max_tokens=40)
    tiny_asker.ask(PENGUINS, options, Conversation())
    other = tiny_asker.ask("How long do cats sleep?", options, Conversation())
    assert PENGUINS not in other.prompt
    assert other.sources[0].number == 1


def test_a_caller_may_remember_the_conversation(
    tiny_asker: Asker, paths: StatePaths, tiny_gguf: Path
) -> None:
    from modelops_tui.gateway.ragchat import earlier
    from recipes.rag.actions import ask

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How long do cats sleep?"},
        {"role": "assistant", "content": "Sixteen hours. [1]"},
        {"role": "user", "content": [{"type": "text", "text": "And their sounds?"}]},
    ]
    history = earlier({"messages": messages})
    assert history == [("How long do cats sleep?", "Sixteen hours. [1]")]
    params = {
        "index": tiny_asker.retriever.generation.name, "question": "And their sounds?",
        "history": history, "model": str(tiny_gguf), "budget": 60,
    }  # fmt: skip
    answer = ask(params, lambda event: None, paths)
    assert answer["searched"] == "How long do cats sleep? And their sounds?"
    assert "Sixteen hours. [1]" in answer["prompt"]
    assert "animals/cats.md" in {source["path"] for source in answer["sources"]}
