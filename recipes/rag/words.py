"""BM25 of an index in memory: the scores of LanceDB's word search, without its query planner.

A query through LanceDB costs 2.5 CPU-ms at 5,000 chunks, nearly all of it planning and hops between
threads. Up to ``EXACT_LIMIT`` chunks the vectors are in memory anyway, so their words are too: for
every token the chunks that hold it, each with what it adds to the score.

Okapi BM25 as LanceDB has it (k1 = 1.2, b = 0.75; a word asked twice counts twice):

    idf(t) = ln(1 + (N - n + 0.5) / (n + 0.5))
    score  = sum of idf(t) * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean length))

N chunks, n of them with the token, f times in this one; lengths count tokens after stop words. The
tokens come from LanceDB's own tokenizer, asked once for each different word. A table whose newest
rows its word index does not cover yet scores here as it will after the next compaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

K1 = 1.2
B = 0.75
#: words a call of the tokenizer
_BATCH = 5_000

#: a text -> its tokens, each with ``text`` and ``position`` (in words of the text)
Tokenize = Callable[[str], Sequence[Any]]


class Words:
    """The postings of every token of some texts.

    Args:
        texts: the chunks; results count them from 0.
        tokenize: of the word index, with positions.
    """

    def __init__(self, texts: Sequence[str], tokenize: Tokenize) -> None:
        import numpy as np

        self._tokenize = tokenize
        self._split = re.compile(f"[{_letters(texts, tokenize)}]+").findall
        self._known: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        numbers: dict[str, int] = {}
        lengths, flat = [], []
        for text in texts:
            words = self._split(text)
            lengths.append(len(words))
            flat += [numbers.setdefault(word, len(numbers)) for word in words]
        self._learn(list(numbers))
        token_of = np.fromiter(self._known.values(), dtype=np.int64, count=len(self._known))
        self._index(np.repeat(np.arange(len(texts)), lengths), token_of[flat], len(texts))

    def _learn(self, words: list[str]) -> None:
        """Ask for the token of each word; -1 for a stop word."""
        for begin in range(0, len(words), _BATCH):
            part = words[begin : begin + _BATCH]
            found = {t.position: t.text for t in self._tokenize(" ".join(part))}
            for at, word in enumerate(part):
                token = found.get(at)
                self._known[word] = (
                    -1 if token is None else self._tokens.setdefault(token, len(self._tokens))
                )

    def _index(self, documents: NDArray[np.int64], tokens: NDArray[np.int64], count: int) -> None:
        """Make the postings of pairs, shape (words,) each."""
        import numpy as np

        counted = tokens >= 0
        documents, tokens = documents[counted], tokens[counted]
        length = np.bincount(documents, minlength=count)
        keys, times = np.unique(tokens * max(count, 1) + documents, return_counts=True)
        tokens, documents = np.divmod(keys, max(count, 1))
        holders = np.bincount(tokens, minlength=len(self._tokens))
        idf = np.log1p((count - holders + 0.5) / (holders + 0.5))
        norm = K1 * (1 - B + B * length / max(float(length.mean()) if count else 0.0, 1e-9))
        share = idf[tokens] * times * (K1 + 1) / (times + norm[documents])
        self._count = count
        self._documents = documents.astype(np.int32)
        self._shares = share.astype(np.float32)
        self._ends = np.concatenate([[0], np.cumsum(holders)])

    def tokens(self, query: str) -> list[int]:
        """Numbers of the tokens of a query that some text holds, repetitions kept."""
        # letters that no text has may join or part words: those queries go to the tokenizer
        words = self._split(query) if query.isascii() else []
        if words and all(word in self._known for word in words):
            found = [self._known[word] for word in words]
        else:
            found = [self._tokens.get(t.text, -1) for t in self._tokenize(query)]
        return [token for token in found if 0 <= token < len(self._ends) - 1]

    def scores(self, query: str) -> NDArray[np.float32]:
        """BM25 of every text, shape (texts,); 0 where no word of the query stands in it."""
        import numpy as np

        total: NDArray[np.float32] = np.zeros(self._count, dtype=np.float32)
        for token in self.tokens(query):
            part = slice(self._ends[token], self._ends[token + 1])
            total[self._documents[part]] += self._shares[part]
        return total


def _letters(texts: Sequence[str], tokenize: Tokenize) -> str:
    """What the tokenizer takes for a letter or digit, as a class of a regular expression.

    It joins "x?x" to one word for a letter: two tokens tell that the character parts words.
    """
    foreign = sorted({c for text in texts if not text.isascii() for c in text if ord(c) > 127})
    joined = []
    for character in foreign:
        found = tokenize(f"x{character}x")
        if len(found) == 1 and found[0].text != "x":
            joined.append(character)
    return "A-Za-z0-9" + "".join(map(re.escape, joined))
