"""Does a source say what a sentence claims? Words and vectors, both; numbers and names strictly.

A small model cites when a grammar makes it, also for what no source says: so each sentence is
checked, moved to the source that does support it, or marked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.types.rag import Citation, Passage

#: share of a sentence's content words that its source must hold
LEXICAL = 0.75
#: cosine of the sentence to the nearest sentence of its source
COSINE = 0.5

_WORD = re.compile(r"[^\W_]+(?:[.'’-][^\W_]+)*")
#: after the end of a sentence, at blank lines, and before list items, headings and table rows; a
#: single line break inside a sentence is only a wrapped line
_SPLIT = re.compile(r"(?<=[.!?…])[\"')\]»”]*\s+|\n\s*\n\s*|\n(?=\s*(?:[-*+|#>]|\d+[.)]\s))")
_STOP_TEXT = """
a about above after again all also am an and any are as at be because been before being
below between both but by can could did do does doing down during each few for from further had
has have having he her here hers him his how i if in into is it its itself just me more most my
no nor not now of off on once only or other our out over own same she should so some such than
that the their them then there these they this those through to too under until up us very was
we were what when where which while who whom why will with would you your according document
documents source sources text states mentioned says answer
"""
_STOP = frozenset(_STOP_TEXT.split())


def content_words(text: str) -> list[str]:
    """Words that carry meaning: lower case, lightly stemmed, without stop words."""
    words = _WORD.findall(text.lower())
    return [stem(w) for w in words if w not in _STOP and (len(w) > 1 or w.isdigit())]


def stem(word: str) -> str:
    """A word without its commonest English endings: enough to match within one passage."""
    for ending in ("ingly", "edly", "ing", "ies", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word


def sentences(text: str) -> list[str]:
    """The sentences of a text, without empty ones; wrapped lines are joined."""
    return [" ".join(text[a:b].split()) for a, b in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of the sentences of a text, without surrounding white space."""
    spans, start = [], 0
    for match in [*_SPLIT.finditer(text), None]:
        end = match.start() if match else len(text)
        piece = text[start:end]
        if piece.strip():
            left = start + len(piece) - len(piece.lstrip())
            spans.append((left, start + len(piece.rstrip())))
        start = match.end() if match else end
    return spans


def lexical_support(claim: str, source: str) -> float:
    """Share of the claim's content words that stand in the source, 0 to 1.

    A number that the source does not have makes it 0: "3 GB" is not supported by "4 GB".
    """
    words = content_words(claim)
    if not words:
        return 0.0
    known = set(content_words(source))
    if any(any(c.isdigit() for c in w) and w not in known for w in words):
        return 0.0
    return sum(w in known for w in words) / len(words)


@dataclass(frozen=True)
class Judge:
    """Verifies sentences against passages with the index's own encoder."""

    embedder: Any
    lexical: float = LEXICAL
    cosine: float = COSINE

    def cite(
        self, claims: Sequence[tuple[str, int]], passages: Sequence[Passage]
    ) -> tuple[Citation, ...]:
        """Each (sentence, named source or 0) with the source that supports it best, judged."""
        if not claims or not passages:
            return tuple(Citation(c, n, False, 0.0, 0.0) for c, n in claims)
        pieces = [sentences(p.text) or [p.text] for p in passages]
        flat = [s for piece in pieces for s in piece]
        vectors = self.embedder.encode([*(c for c, _ in claims), *flat])
        heads, tails = vectors[: len(claims)], vectors[len(claims) :]
        cuts = [0]
        for piece in pieces:
            cuts.append(cuts[-1] + len(piece))
        result = []
        for (claim, named), vector in zip(claims, heads, strict=True):
            nearest = [
                float((tails[cuts[i] : cuts[i + 1]] @ vector).max()) for i in range(len(passages))
            ]
            result.append(self._judge(claim, named, passages, nearest))
        return tuple(result)

    def _judge(
        self, claim: str, named: int, passages: Sequence[Passage], nearest: Sequence[float]
    ) -> Citation:
        scored = []
        for passage, cosine in zip(passages, nearest, strict=True):
            lexical = lexical_support(claim, f"{passage.headings}\n{passage.text}")
            supported = lexical >= self.lexical and cosine >= self.cosine
            # the named source wins among those that support it
            scored.append((supported, supported and passage.number == named, lexical + cosine,
                           lexical, cosine, passage))  # fmt: skip
        best = max(scored, key=lambda s: s[:3])
        if not best[0]:
            if named == 0:
                return Citation(claim, 0, False, round(best[3], 3), round(best[4], 3))
            best = next((s for s in scored if s[5].number == named), best)
        passage = best[5]
        return Citation(
            sentence=claim,
            source=passage.number,
            supported=best[0],
            lexical=round(best[3], 3),
            cosine=round(best[4], 3),
            path=passage.path,
            headings=passage.headings,
            start=passage.start,
            end=passage.end,
        )

    def quotes(
        self, question: str, passages: Sequence[Passage], limit: int = 2
    ) -> tuple[Citation, ...]:
        """The sentences of the sources that answer best, word for word, in the order they stand.

        Ranked by cosine of the sentence under its headings to the question, plus the share of the
        question's words that they hold.
        """
        flat = [
            (passage, start, end)
            for passage in passages
            for start, end in sentence_spans(passage.text)
            if len(passage.text[start:end].split()) >= 4
        ]
        if not flat:
            return ()
        texts = [f"{p.headings}\n{' '.join(p.text[a:b].split())}" for p, a, b in flat]
        vectors = self.embedder.encode([question, *texts])
        cosine = vectors[1:] @ vectors[0]
        wanted = set(content_words(question))
        shared = [len(wanted & set(content_words(t))) / max(len(wanted), 1) for t in texts]
        score = [float(c) + 0.5 * s for c, s in zip(cosine, shared, strict=True)]
        best = sorted(range(len(flat)), key=lambda i: -score[i])[:limit]
        # a second sentence has to come near the first one
        best = sorted(i for i in best if score[i] >= score[best[0]] - 0.15)
        return tuple(_quote(*flat[i], shared[i], float(cosine[i])) for i in best)


def _quote(passage: Passage, start: int, end: int, lexical: float, cosine: float) -> Citation:
    return Citation(
        " ".join(passage.text[start:end].split()), passage.number, True, round(lexical, 3),
        round(cosine, 3), passage.path, passage.headings,
        passage.start + start, passage.start + end,
    )  # fmt: skip
