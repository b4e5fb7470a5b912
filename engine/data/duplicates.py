"""Exact and near duplicates among many texts, in memory that grows by some 300 bytes a text.

Near duplicates are found by MinHash over three-word shingles (Broder 1997) with banding, and
confirmed by the exact Jaccard similarity of the shingle sets.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

#: Jaccard similarity from which two texts count as near duplicates.
NEAR = 0.8
_SHINGLE = 3
_BANDS, _ROWS = 8, 4
_COMPARED = 4
_MAX_WORDS = 2000
_WORD = re.compile(r"\w+")


class _Numbers(dict[str, int]):
    """Numbers words as they come, from 1."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self) + 1
        return number


class DuplicateIndex:
    """Finds, for each text added, the earlier text it repeats.

    Two texts are exact duplicates when they are equal but for white space, near duplicates when the
    Jaccard similarity of their shingles is at least ``NEAR``. With 8 bands of 4 rows a pair at 0.8
    is a candidate with probability 0.985, one at 0.9 with 0.9998.
    """

    def __init__(self) -> None:
        import numpy as np

        rng = np.random.default_rng(20_240_601)
        shape = (_BANDS * _ROWS, 1)
        top = np.iinfo(np.uint64).max
        self._a = rng.integers(0, top, shape, dtype=np.uint64) | np.uint64(1)
        self._b = rng.integers(0, top, shape, dtype=np.uint64)
        self._exact: dict[bytes, int] = {}
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        self._shingles: dict[int, numpy.ndarray[Any, Any]] = {}
        self._words = _Numbers()

    def find(self, text: str) -> tuple[str, int] | None:
        """``("exact" | "near", number)`` of an earlier text that ``text`` repeats, or None."""
        return self._find(text)[0]

    def add(self, number: int, text: str) -> tuple[str, int] | None:
        """As ``find``; a text that repeats nothing is remembered under ``number``."""
        found, exact_key, keys, shingles = self._find(text)
        if found is None or found[0] == "near":
            self._exact.setdefault(exact_key, number)
        if found is None and shingles is not None:
            self._shingles[number] = shingles
            for key in keys:
                bucket = self._bands.setdefault(key, [])
                if len(bucket) < _COMPARED:
                    # a bucket of one template's rows must not make the search quadratic
                    bucket.append(number)
        return found

    def _find(self, text: str) -> tuple[tuple[str, int] | None, bytes, list[Any], Any]:
        exact_key = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
        if exact_key in self._exact:
            return ("exact", self._exact[exact_key]), exact_key, [], None
        shingles = self._shingle_set(text)
        if shingles is None:
            return None, exact_key, [], None
        keys = self._keys(shingles)
        seen = set()
        for key in keys:
            for candidate in self._bands.get(key, ()):
                if candidate not in seen:
                    seen.add(candidate)
                    if jaccard(shingles, self._shingles[candidate]) >= NEAR:
                        return ("near", candidate), exact_key, keys, shingles
        return None, exact_key, keys, shingles

    def _shingle_set(self, text: str) -> Any:
        """Sorted distinct 32-bit hashes of the text's word triples; None for very short texts."""
        import numpy as np

        words = _WORD.findall(text.lower())[:_MAX_WORDS]
        if len(words) < _SHINGLE + 2:
            return None
        ids = np.fromiter(map(self._words.__getitem__, words), np.uint64, len(words))
        mixed = (
            ids[:-2] * np.uint64(0x9E3779B97F4A7C15)
            ^ ids[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
            ^ ids[2:] * np.uint64(0x165667B19E3779F9)
        )
        mixed ^= mixed >> np.uint64(29)
        hashed = (mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(33)
        # np.unique goes through a hash table: ten times slower for so few
        hashed.sort()
        return hashed[np.concatenate(([True], hashed[1:] != hashed[:-1]))]

    def _keys(self, shingles: Any) -> list[tuple[int, bytes]]:
        # a h + b mod 2^64 with odd a, ordered by its upper bits (multiply-shift, Dietzfelbinger et
        # al. 1997): a division by a prime took most of the search
        hashed = self._a * shingles[None, :]
        hashed += self._b
        signature = hashed.min(axis=1).reshape(_BANDS, _ROWS)
        return [(band, signature[band].tobytes()) for band in range(_BANDS)]


def jaccard(first: Any, second: Any) -> float:
    """Size of the intersection over the size of the union of two sorted, distinct arrays."""
    import numpy as np

    shared = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0
