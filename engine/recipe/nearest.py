"""The "did you mean": the nearest of a few known names by edit distance."""

from __future__ import annotations

from collections.abc import Iterable


def edit_distance(left: str, right: str) -> int:
    """Optimal string alignment: insert, delete, replace, swap of neighbours cost 1 each."""
    previous: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, previous, row = previous, row, [i]
        for j, b in enumerate(right, 1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that ``word`` most likely stands for, or None when nothing is near.

    A third of the word may be wrong; ``learning_rate`` is also found by ``learning-rate`` and a
    longer name by a beginning of at least three letters.
    """
    plain = _plain(word)
    best: tuple[float, str] | None = None
    for name in known:
        other = _plain(name)
        distance: float = edit_distance(plain, other)
        if len(plain) >= 3 and (other.startswith(plain) or plain.startswith(other)) and other:
            distance = min(distance, 1.5)
        if distance <= max(1, max(len(plain), len(other)) // 3) or distance == 1.5:
            best = min(best, (distance, name)) if best else (distance, name)
    return best[1] if best else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean `rank`?``, or the list of what is known, or nothing."""
    names = list(known)
    found = nearest(word, names)
    if found is not None:
        return f"did you mean `{found}`?"
    return f"known: {', '.join(sorted(names))}" if names else ""
