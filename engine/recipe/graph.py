"""The order of a pipeline: inferred from what its steps refer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Steps so that each comes after those it needs; otherwise the order of the file.

    Args:
        needs: step -> steps it needs; unknown names are ignored, steps on a cycle are left out.
    """
    done: list[str] = []
    waiting = list(needs)
    while waiting:
        ready = next(
            (s for s in waiting if all(n in done or n not in needs for n in needs[s])), None
        )
        if ready is None:
            return done
        waiting.remove(ready)
        done.append(ready)
    return done


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """A cycle as ``[a, b, a]``, or an empty list."""
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(step: str) -> list[str]:
        state[step] = 1
        trail.append(step)
        for other in needs[step]:
            if other not in needs:
                continue
            if state.get(other) == 1:
                return [*trail[trail.index(other) :], other]
            if other not in state and (found := visit(other)):
                return found
        trail.pop()
        state[step] = 2
        return []

    for step in needs:
        if step not in state and (found := visit(step)):
            return found
    return []


def descendants(needs: Mapping[str, Sequence[str]], roots: set[str]) -> set[str]:
    """``roots`` and every step that needs one of them, directly or not."""
    found = set(roots)
    grown = True
    while grown:
        more = {step for step, others in needs.items() if found & set(others)} - found
        found |= more
        grown = bool(more)
    return found


def ancestors(needs: Mapping[str, Sequence[str]], step: str) -> set[str]:
    """``step`` and everything it needs, directly or not."""
    found: set[str] = set()
    waiting = [step]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(other for other in needs.get(name, ()) if other in needs)
    return found
