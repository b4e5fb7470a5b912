from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.chunking import chunk_text, search_text
from recipes.rag.embedding import Embedder

TOKENIZER = Embedder(resolve_model("all-minilm-l6-v2", StatePaths.default())).tokenizer


def paths_of(text: str, **options: Any) -> list[tuple[str, ...]]:
    return [c.headings for c in chunk_text(text, TOKENIZER, **options)]


def test_chunks_carry_their_heading_path() -> None:
    text = "# Guide\n\nIntro here.\n\n## Install\n\nRun make.\n\n# Other\n\nText.\n"
    assert paths_of(text) == [("Guide",), ("Guide", "Install"), ("Other",)]
    assert paths_of(text, title="Book")[1] == ("Book", "Guide", "Install")


def test_wiki_headings_and_titles_of_plain_text() -> None:
    wiki = " = Film = \n Long text about it . \n = = Plot = = \n The hero wins . \n"
    assert paths_of(wiki) == [("Film",), ("Film", "Plot")]
    plain = "Some preface.\n\nMaterials and Methods\n" + "We did many careful things. " * 5
    assert paths_of(plain)[-1] == ("Materials and Methods",)


def test_a_comment_in_a_code_fence_is_no_heading() -> None:
    text = "# Guide\n\n```sh\n# not a heading\nmake\n```\n\nAfter the code.\n"
    assert set(paths_of(text)) == {("Guide",)}


def test_code_without_markdown_keeps_its_comments() -> None:
    text = "# a comment\nx = 1\n"
    (chunk,) = chunk_text(text, TOKENIZER, title="a.py", markdown=False)
    assert text[chunk.start : chunk.end] == text.strip()


def test_overlap_repeats_whole_sentences_of_the_same_section() -> None:
    text = " ".join(f"Sentence number {i} speaks of a thing." for i in range(60))
    chunks = chunk_text(text, TOKENIZER, size=64, overlap=16)
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start < before.end < after.end
        assert text[after.start :].startswith("Sentence")


def test_without_overlap_nothing_is_repeated() -> None:
    text = " ".join(f"Sentence number {i} speaks of a thing." for i in range(60))
    chunks = chunk_text(text, TOKENIZER, size=64, overlap=0)
    assert all(a.end <= b.start for a, b in itertools.pairwise(chunks))


def test_the_heading_path_stands_in_front_and_is_bounded() -> None:
    text, prefix = search_text(("A", "B"), "body")
    assert (text, text[prefix:]) == ("A > B\nbody", "body")
    long, _ = search_text(("x" * 1000,), "body")
    assert len(long) < 320


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("ab .\n#=`é🙂A1|-"), max_size=600),
    st.integers(16, 64),
    st.integers(0, 15),
)
def test_every_chunk_is_an_exact_bounded_span(text: str, size: int, overlap: int) -> None:
    chunks = chunk_text(text, TOKENIZER, size=size, overlap=overlap)
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert 0 <= chunk.start < chunk.end <= len(text)
        assert text[chunk.start : chunk.end] == text[chunk.start : chunk.end].strip()
        assert chunk.tokens <= size


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abcdef ", min_size=1, max_size=90), max_size=40), st.integers(16, 64))
def test_no_word_is_left_out(lines: list[str], size: int) -> None:
    """Text without headings: every character but white space stands in a chunk."""
    text = "\n".join(lines)
    covered = set()
    for chunk in chunk_text(text, TOKENIZER, size=size, overlap=size // 4):
        covered.update(range(chunk.start, chunk.end))
    assert {i for i, char in enumerate(text) if not char.isspace()} <= covered


@pytest.mark.parametrize("text", ["", "   \n\n"])
def test_nothing_gives_no_chunk(text: str) -> None:
    assert chunk_text(text, TOKENIZER) == []
