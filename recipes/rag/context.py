"""Hits to the sources of a prompt: neighbours joined, numbered, within a budget that is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.types.rag import Hit, Passage


@dataclass(frozen=True)
class Context:
    """The sources that fit, and what did not, each with the reason."""

    passages: tuple[Passage, ...]
    tokens: int
    left_out: tuple[str, ...]


def source_block(number: int, path: str, headings: str, text: str) -> str:
    """One source as the prompt shows it."""
    where = f"{path}, {headings}" if headings else path
    return f"[{number}] ({where})\n{text}\n"


def build_context(
    hits: Sequence[Hit], budget: int, count: Callable[[str], int], first_number: int = 1
) -> Context:
    """Join neighbouring hits and take the best that fit.

    Args:
        hits: best first.
        budget: tokens for all sources with their headers.
        count: tokens of a text, by the answering model's tokenizer.
        first_number: number of the first source (a conversation goes on counting).
    """
    taken: list[list[Hit]] = []
    left_out: list[str] = []
    used = 0
    for hit in hits:
        group = next((g for g in taken if any(_neighbours(hit, other) for other in g)), None)
        before = count(_block(group)) if group else 0
        after = count(_block([*group, hit] if group else [hit]))
        if used + after - before > budget:
            left_out.append(f"{hit.place}: {after - before} tokens, {budget - used} were left")
            continue
        used += after - before
        if group:
            group.append(hit)
        else:
            taken.append([hit])
    passages = []
    for number, group in enumerate(taken, first_number):
        start, end, text = join(group)
        passages.append(
            Passage(
                number=number,
                path=group[0].path,
                headings=group[0].headings,
                start=start,
                end=end,
                text=text,
                score=max(h.score for h in group),
                tokens=count(source_block(number, group[0].path, group[0].headings, text)),
                chunks=tuple(h.id for h in group),
            )
        )
    return Context(tuple(passages), sum(p.tokens for p in passages), tuple(left_out))


def _block(group: Sequence[Hit]) -> str:
    return source_block(99, group[0].path, group[0].headings, join(group)[2])


def _neighbours(one: Hit, other: Hit) -> bool:
    """Chunks that follow each other in a file, under the same headings."""
    near = abs(one.number - other.number) == 1
    return one.path == other.path and one.headings == other.headings and near


def join(group: Sequence[Hit]) -> tuple[int, int, str]:
    """(start, end, text) of hits of one file; what two chunks share stands once."""
    ordered = sorted(group, key=lambda h: h.start)
    start, end, text = ordered[0].start, ordered[0].end, ordered[0].text
    for hit in ordered[1:]:
        if hit.end <= end:
            continue
        shared = end - hit.start
        text += hit.text[shared:] if shared > 0 else "\n" + hit.text
        end = hit.end
    return start, end, text
