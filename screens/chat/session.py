"""One conversation with one model: its turns, the answer that streams in, its figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.types.serving import ChatMessage, ChatPiece, Sampling
from screens.prose import paragraph
from screens.text import Line

_STYLES = {"user": "accent", "system": "dim"}


@dataclass
class Conversation:
    """State of one column. A newer ``turn`` number makes pieces of an older answer void."""

    model: str
    turns: list[ChatMessage] = field(default_factory=list)
    answer: str = ""
    answering: bool = False
    turn: int = 0
    prompt: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def ask(self, text: str, system: str = "") -> tuple[ChatMessage, ...]:
        """Add a question; returns all turns, as they are to be sent.

        Args:
            text: the question.
            system: the system prompt; it stands before the first question, empty: none does.
        """
        if self.turns and self.turns[0].role == "system":
            del self.turns[0]
        if system:
            self.turns.insert(0, ChatMessage("system", system))
        self.turns.append(ChatMessage("user", text))
        self.answer, self.answering, self.problem = "", True, ""
        self.stats = {}
        self.turn += 1
        return tuple(self.turns)

    def take(self, piece: ChatPiece) -> None:
        """Take in one piece of the stream."""
        if piece.kind == "prompt":
            self.prompt = piece.text
        elif piece.kind == "text":
            self.answer += piece.text
        elif piece.kind == "end":
            self.answer = piece.text
            self.stats = dict(piece.stats)
            self.finish()

    def finish(self) -> None:
        """The answer is over; what came of it stays as a turn."""
        if self.answering and self.answer:
            self.turns.append(ChatMessage("assistant", self.answer))
        self.answering = False

    def lines(self, width: int) -> list[Line]:
        """The conversation, and what the last answer took."""
        lines: list[Line] = [[(self.model, "head")]]
        for turn in self.turns:
            lines.append([])
            lines += paragraph(turn.content, width, _STYLES.get(turn.role, ""))
        if self.answering:
            lines += [
                [],
                *paragraph(self.answer or "thinking", width, "" if self.answer else "dim"),
            ]
        if self.problem:
            lines += [[], *paragraph(self.problem, width, "bad")]
        if self.stats:
            lines += [[], [(figures(self.stats), "dim")]]
        return lines


def figures(stats: dict[str, Any]) -> str:
    """``118 tokens, 31.2 tokens/s, first after 0.24 s, stop``."""
    parts = []
    if stats.get("tokens") is not None:
        parts.append(f"{stats['tokens']} tokens")
    if stats.get("tokens_per_s") is not None:
        parts.append(f"{stats['tokens_per_s']:.1f} tokens/s")
    if stats.get("first_token_s") is not None:
        parts.append(f"first after {stats['first_token_s']:.2f} s")
    if stats.get("finish_reason"):
        parts.append(str(stats["finish_reason"]))
    return ", ".join(parts)


def sampling_of(text: str) -> Sampling:
    """``temperature=0 max_tokens=64`` as sampling settings.

    Raises:
        ValueError: a name is unknown or a value is no number.
    """
    values: dict[str, Any] = {}
    kinds = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}
    for part in text.split():
        name, _, value = part.partition("=")
        if name not in kinds:
            raise ValueError(f"{name!r} is not one of {', '.join(kinds)}")
        values[name] = kinds[name](value)
    return Sampling(**values)
