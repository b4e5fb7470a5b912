"""``modelops-tui chat``: talk to one or two models, streamed, and keep what was worth keeping."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput
from engine.types.serving import ChatMessage, Sampling
from modelops_tui.cli.output import out

_HELP = (
    "/prompt shows the exact prompt, /save keeps the last answer as a row, /a or /b keeps a"
    " preference (the better of two), /new begins again, /quit leaves"
)


@dataclass
class Side:
    """One model and its conversation."""

    label: str
    model: str
    turns: list[ChatMessage] = field(default_factory=list)
    prompt: str = ""
    answer: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


def command(
    model: Annotated[str, typer.Argument(help="A deployment, or any model reference.")],
    beside: Annotated[
        str, typer.Option("--beside", help="A second model; answers come one after the other.")
    ] = "",
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", help="Ask this and leave.")
    ] = None,
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=5, help="0: greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so long an answer.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Show the exact prompt as sent.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="JSONL file for rows (/save, /a, /b; with -m: each answer).")
    ] = None,
    prefer: Annotated[
        str, typer.Option(help="With -m and --beside: a or b was better; kept in --save.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="With -m: JSON lines.")] = False,
) -> None:
    """Chat with a model, or with two side by side."""
    if prefer and (prefer not in ("a", "b") or not beside or save is None):
        raise BadInput("--prefer a|b needs --beside and --save")
    sides = [Side("a", model)] + ([Side("b", beside)] if beside else [])
    talk = _Talk(
        Workbench(), sides, Sampling(temperature, top_p, max_tokens, seed), system, save, as_json
    )
    try:
        if message:
            for text in message:
                talk.ask(text, show_prompt=show_prompt)
                if prefer:
                    talk.keep_preference(prefer)
                elif save is not None:
                    talk.keep_answer()
            return
        _loop(talk, show_prompt)
    finally:
        talk.bench.serving.close()


def _loop(talk: _Talk, show_prompt: bool) -> None:
    out.say(_HELP)
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() == "/quit":
            return
        text = line.strip()
        if text in ("/a", "/b"):
            talk.keep_preference(text[1:])
        elif text == "/save":
            talk.keep_answer()
        elif text == "/prompt":
            for side in talk.sides:
                out.line(side.prompt)
        elif text == "/new":
            for side in talk.sides:
                side.turns.clear()
        elif text.startswith("/"):
            out.say(_HELP)
        elif text:
            talk.ask(text, show_prompt=show_prompt)


class _Talk:
    def __init__(
        self,
        bench: Workbench,
        sides: list[Side],
        sampling: Sampling,
        system: str,
        save: Path | None,
        as_json: bool,
    ) -> None:
        self.bench = bench
        self.sides = sides
        self._sampling = sampling
        self._system = system
        self._save = save
        self._json = as_json

    def ask(self, text: str, *, show_prompt: bool) -> None:
        """Send one message to every side, and stream the answers."""
        for side in self.sides:
            if not side.turns and self._system:
                side.turns.append(ChatMessage("system", self._system))
            side.turns.append(ChatMessage("user", text))
            if len(self.sides) > 1 and not self._json:
                out.line(f"[{side.label}] {side.model}")
            self._answer(side, show_prompt)

    def _answer(self, side: Side, show_prompt: bool) -> None:
        for piece in self.bench.serving.chat(side.model, side.turns, self._sampling):
            if piece.kind == "prompt":
                side.prompt = piece.text
                if show_prompt and not self._json:
                    out.line(piece.text)
            elif piece.kind == "text" and not self._json:
                out.raw(_safe(piece.text))
            elif piece.kind == "end":
                side.answer, side.stats = piece.text, dict(piece.stats)
        side.turns.append(ChatMessage("assistant", side.answer))
        if self._json:
            row = {"model": side.model, "answer": side.answer, "prompt": side.prompt, **side.stats}
            out.raw(json.dumps(row, ensure_ascii=False) + "\n")
            return
        out.line()
        stats = side.stats
        out.say(
            f"{stats.get('tokens', 0)} tokens, {stats.get('tokens_per_s', 0)} tokens/s,"
            f" first after {stats.get('first_token_s', 0)} s"
        )

    def keep_answer(self) -> None:
        """Append the conversations as chat rows."""
        for side in self.sides:
            if side.answer:
                self._write({"messages": [turn.to_json() for turn in side.turns]})

    def keep_preference(self, better: str) -> None:
        """Append ``chosen``/``rejected`` for the last question."""
        if len(self.sides) != 2 or not all(side.answer for side in self.sides):
            out.say("a preference needs two answers: start with --beside MODEL and ask something")
            return
        good = self.sides[0] if better == "a" else self.sides[1]
        bad = self.sides[1] if better == "a" else self.sides[0]
        prompt = [turn.to_json() for turn in good.turns[:-1]]
        self._write(
            {
                "prompt": prompt,
                "chosen": [good.turns[-1].to_json()],
                "rejected": [bad.turns[-1].to_json()],
            }
        )
        # both go on from the better answer: the next preference has one common prompt
        bad.turns[:] = list(good.turns)

    def _write(self, row: dict[str, Any]) -> None:
        if self._save is None:
            out.say("nowhere to save: start with --save FILE.jsonl")
            return
        with open(self._save, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.say(f"kept in {self._save}")


def _safe(text: str) -> str:
    from modelops_tui.cli.output import printable

    return printable(text)
