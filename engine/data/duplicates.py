"""Exact and near duplicates among many texts, in memory that grows by some 600 bytes a text.

Near duplicates are found by MinHash over three-word shingles (Broder 1997) with banding, and
confirmed by the exact Jaccard similarity of the shingle sets. Texts come in windows: words,
shingles and signatures of a whole window are computed in one pass of numpy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

#: Jaccard similarity from which two texts count as near duplicates.
NEAR = 0.8
_SHINGLE = 3
_BANDS, _ROWS = 8, 4
_COMPARED = 4
#: Of a longer text the first so many words are compared, within the first so many characters.
_MAX_WORDS, _MAX_CHARACTERS = 2000, 1 << 16
#: Characters hashed in one pass: some 50 bytes of temporaries each.
_AT_ONCE = 1 << 19
_HASH_BITS = 31
_CODE_POINTS = 0x110000
#: Odd 64-bit constants (the golden ratio's, and xxHash's primes).
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xBF58476D1CE4E5B9)

Found = tuple[str, int]


class DuplicateIndex:
    """Finds, for each text added, the earlier text it repeats.

    Two texts are exact duplicates when they are equal but for white space, near duplicates when the
    Jaccard similarity of their shingles is at least ``NEAR``. With 8 bands of 4 rows a pair at 0.8
    is a candidate with probability 0.985, one at 0.9 with 0.9998.
    """

    def __init__(self) -> None:
        import numpy as np

        rng = np.random.default_rng(20_240_601)
        top = np.iinfo(np.uint64).max
        self._a = rng.integers(0, top, _BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
        self._b = rng.integers(0, top, _BANDS * _ROWS, dtype=np.uint64)
        self._exact: dict[bytes, int] = {}
        # nearly every bucket holds one text: a list only where there are more
        self._bands: dict[int, int | list[int]] = {}
        self._shingles: dict[int, numpy.ndarray[Any, Any]] = {}

    def find(self, text: str) -> Found | None:
        """``("exact" | "near", number)`` of an earlier text that ``text`` repeats, or None."""
        return self.find_many([text])[0]

    def add(self, number: int, text: str) -> Found | None:
        """As ``find``; a text that repeats nothing is remembered under ``number``."""
        return self.add_many([number], [text])[0]

    def find_many(self, texts: Sequence[str]) -> list[Found | None]:
        """``find`` for each text."""
        return self._each(None, texts)

    def add_many(self, numbers: Sequence[int], texts: Sequence[str]) -> list[Found | None]:
        """``add`` for each text, in order: a text may repeat an earlier one of the same call."""
        return self._each(numbers, texts)

    def _each(self, numbers: Sequence[int] | None, texts: Sequence[str]) -> list[Found | None]:
        found: list[Found | None] = [None] * len(texts)
        fresh = []
        for index, text in enumerate(texts):
            key = hashlib.blake2b(
                " ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16
            ).digest()
            if key in self._exact:
                found[index] = ("exact", self._exact[key])
                continue
            fresh.append(index)
            if numbers is not None:
                self._exact[key] = numbers[index]
        hashed = shingle_sets([texts[i] for i in fresh])
        for index, shingles, keys in zip(fresh, hashed, self._keys(hashed), strict=True):
            if shingles is None:
                continue
            found[index] = self._near(shingles, keys)
            if found[index] is None and numbers is not None:
                self._remember(numbers[index], shingles, keys)
        return found

    def _near(self, shingles: Any, keys: Sequence[int]) -> Found | None:
        seen = set()
        for key in keys:
            bucket = self._bands.get(key)
            if bucket is None:
                continue
            for candidate in (bucket,) if isinstance(bucket, int) else bucket:
                if candidate not in seen:
                    seen.add(candidate)
                    if jaccard(shingles, self._shingles[candidate]) >= NEAR:
                        return "near", candidate
        return None

    def _remember(self, number: int, shingles: Any, keys: Sequence[int]) -> None:
        self._shingles[number] = shingles
        for key in keys:
            bucket = self._bands.setdefault(key, number)
            if isinstance(bucket, list):
                # a bucket of one template's rows must not make the search quadratic
                if len(bucket) < _COMPARED:
                    bucket.append(number)
            elif bucket is not number:
                self._bands[key] = [bucket, number]

    def _keys(self, sets: Sequence[Any]) -> Iterable[Sequence[int]]:
        """The bands' keys of each shingle set: 8 numbers (none where there is no set)."""
        import numpy as np

        lengths = [0 if s is None else len(s) for s in sets]
        full = [s for s in sets if s is not None]
        if not full:
            return [()] * len(sets)
        hashed = np.concatenate(full).astype(np.uint64)
        starts = np.cumsum([0, *(n for n in lengths if n)])[:-1]
        signature: Any = np.empty((_BANDS * _ROWS, len(full)), np.uint64)
        for row, (a, b) in enumerate(zip(self._a, self._b, strict=True)):
            # a h + b mod 2^64 with odd a, ordered by its upper bits (multiply-shift, Dietzfelbinger
            # et al. 1997): a division by a prime took most of the search
            signature[row] = np.minimum.reduceat(hashed * a + b, starts)
        keys = np.arange(_BANDS, dtype=np.uint64)[:, None] * np.uint64(_ODD[0])
        for part in range(_ROWS):
            keys = (keys ^ signature[part::_ROWS]) * np.uint64(_ODD[1])
            keys ^= keys >> np.uint64(29)
        rows = iter(keys.T.tolist())
        return [next(rows) if n else () for n in lengths]


def shingle_sets(texts: Sequence[str]) -> list[Any]:
    r"""For each text the sorted distinct 31-bit hashes of its word triples (uint32, shape (n,)).

    None for texts of fewer than five words. Words are those of ``re``'s ``\w+``, in lower case.
    """
    found: list[Any] = []
    lowered: list[str] = []
    size = 0
    for text in texts:
        if size > _AT_ONCE:
            found += _shingle_window(lowered)
            lowered, size = [], 0
        lowered.append(text[:_MAX_CHARACTERS].lower())
        size += len(lowered[-1]) + 1
    return found + _shingle_window(lowered)


def _shingle_window(lowered: Sequence[str]) -> list[Any]:
    import numpy as np

    found: list[Any] = [None] * len(lowered)
    hashes, rows = _words(lowered)
    if not len(hashes):
        return found
    # the word's place in its row
    begins: Any = np.searchsorted(rows, np.arange(len(lowered)))
    counts: Any = np.bincount(rows, minlength=len(lowered))
    place = np.arange(len(rows)) - begins[rows]
    kept = (counts[rows] >= _SHINGLE + 2) & (place < _MAX_WORDS)
    hashes, rows = hashes[kept], rows[kept]
    if not len(hashes):
        return found
    same = rows[2:] == rows[:-2]
    mixed = hashes[:-2] * np.uint64(_ODD[0])
    mixed ^= hashes[1:-1] * np.uint64(_ODD[1])
    mixed ^= hashes[2:] * np.uint64(_ODD[2])
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(_ODD[3])
    mixed >>= np.uint64(64 - _HASH_BITS)
    # row and hash in one number: one sort for the window
    both = mixed[same] | (rows[2:][same].astype(np.uint64) << np.uint64(_HASH_BITS))
    both.sort()
    both = both[np.concatenate(([True], both[1:] != both[:-1]))]
    owners = (both >> np.uint64(_HASH_BITS)).astype(np.int64)
    values = (both & np.uint64((1 << _HASH_BITS) - 1)).astype(np.uint32)
    chosen, starts = np.unique(owners, return_index=True)
    for row, piece in zip(chosen.tolist(), np.split(values, starts[1:]), strict=True):
        # a copy: a view would keep the whole window
        found[row] = piece.copy()
    return found


def _words(lowered: Sequence[str]) -> tuple[Any, Any]:
    """``(hash, row)`` of every word of every text, in order: uint64 and int64, shape (words,).

    A word's hash is the polynomial of its characters, taken from sums over the whole window: the
    sum up to its end less that up to its beginning, times the inverse power of its beginning
    (an odd base has one modulo 2^64).
    """
    import numpy as np

    text = "\n".join(lowered) + "\n"
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    inside: Any = np.zeros(len(codes) + 1, np.int8)
    inside[1:] = _word_characters()[codes]
    edges = np.diff(inside)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    powers, inverse = _powers(1 << max(len(codes) - 1, 1).bit_length())
    mixed = (codes + np.uint64(1)) * np.uint64(_ODD[3])
    mixed ^= mixed >> np.uint64(32)
    mixed *= powers[: len(codes)]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)))
    hashes = (sums[ends] - sums[starts]) * inverse[starts]
    hashes ^= hashes >> np.uint64(31)
    borders = np.cumsum([len(one) + 1 for one in lowered])
    return hashes, np.searchsorted(borders, starts, side="right")


@lru_cache(maxsize=1)
def _word_characters() -> Any:
    r"""Which code points ``\w`` matches: bool, shape (0x110000,)."""
    import numpy as np

    found: Any = np.zeros(_CODE_POINTS, bool)
    for match in re.finditer(r"\w+", "".join(map(chr, range(_CODE_POINTS)))):
        found[match.start() : match.end()] = True
    return found


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Any, Any]:
    """The first ``count`` powers of an odd base and of its inverse, modulo 2^64."""
    import numpy as np

    base = _ODD[1]
    pair = []
    for factor in (base, pow(base, -1, 1 << 64)):
        steps: Any = np.full(count, factor, np.uint64)
        steps[0] = 1
        pair.append(np.multiply.accumulate(steps, dtype=np.uint64))
    return pair[0], pair[1]


def jaccard(first: Any, second: Any) -> float:
    """Size of the intersection over the size of the union of two sorted, distinct arrays."""
    import numpy as np

    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0
