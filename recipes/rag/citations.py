"""How an answer cites: the grammar that makes it, and reading the citations back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recipes.rag.support import sentence_spans

_CITED = re.compile(r"\s*(.+?)\s*\[(\d+)\]\.?", re.DOTALL)
#: ``[1]``, ``[1, 2]``, ``[1][2]``, ``[source 1]`` and a full stop behind it
_MARKS = re.compile(r"(?:\s*\[(?:sources?\s*)?\d+(?:\s*,\s*\d+)*\])+[.]?", re.IGNORECASE)


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


def read_citations(text: str, numbers: Sequence[int]) -> list[tuple[str, int]]:
    """(sentence, number) of an answer that was only asked to cite.

    The number is the first of a sentence's marks that names a source, 0 where none does. A mark
    belongs to the sentence before it, also behind its full stop. Words after the last end of a
    sentence are an answer that was cut off: they are left out, unless they are all there is.
    """
    found: list[tuple[str, int]] = []
    start = 0
    for mark in [*_MARKS.finditer(text), None]:
        piece = text[start : mark.start()] if mark else text[start:]
        named = [int(n) for n in re.findall(r"\d+", mark[0])] if mark else []
        number = next((n for n in named if n in numbers), 0)
        said = [" ".join(piece[a:b].split()) for a, b in sentence_spans(piece)]
        if mark is None and said and found and not said[-1].endswith((".", "!", "?", "…")):
            said.pop()
        found += [(sentence, 0) for sentence in said[:-1]]
        if said:
            found.append((said[-1], number))
        start = mark.end() if mark else len(text)
    return [(sentence, number) for sentence, number in found if any(map(str.isalnum, sentence))]
