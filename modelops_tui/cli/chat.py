"""``modelops-tui chat``: talk to one or two models, streamed, and keep what was worth keeping."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput, ModelOpsError
from engine.types.chats import conversation_row, preference_row
from engine.types.serving import ChatMessage, ChatPiece, Sampling
from modelops_tui.cli.chat_streams import Quiet, together, view_for
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
    question: Annotated[
        str | None, typer.Argument(help="Ask this and leave; without it, a conversation.")
    ] = None,
    beside: Annotated[
        str, typer.Option("--beside", help="A second model; both answer at once.")
    ] = "",
    message: Annotated[
        list[str] | None,
        typer.Option("--message", "-m", help="Ask this too, then leave; once for each turn."),
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
        Path | None,
        typer.Option(help="JSONL file for rows (/save, /a, /b; with a question: the answer)."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Dataset that gets the kept rows as a new, signed version.")
    ] = "",
    prefer: Annotated[
        str, typer.Option(help="With a question and --beside: a or b was better; kept as a pair.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="With a question: JSON lines.")] = False,
) -> None:
    """Chat with a model, or with two side by side."""
    asked = ([question] if question else []) + (message or [])
    if prefer and (prefer not in ("a", "b") or not beside or not asked):
        raise BadInput("--prefer a|b needs a question and --beside")
    if prefer and save is None and not dataset:
        raise BadInput("--prefer needs a place to keep the pair", hint="--save or --dataset")
    sides = [Side("a", model)] + ([Side("b", beside)] if beside else [])
    bench = Workbench()
    keeper = _Keeper(bench, save, dataset)
    talk = _Talk(
        bench, sides, Sampling(temperature, top_p, max_tokens, seed), system, keeper, as_json
    )
    try:
        for text in asked:
            talk.ask(text, show_prompt=show_prompt)
            if prefer:
                talk.keep_preference(prefer)
            elif keeper.wanted:
                talk.keep_answer()
        if not asked:
            _loop(talk, show_prompt)
    finally:
        bench.serving.close()
        keeper.publish()


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
            try:
                talk.ask(text, show_prompt=show_prompt)
            except ModelOpsError as error:
                # a deployment that restarts or a full context ends the turn, not the conversation
                out.error(error)


class _Talk:
    def __init__(
        self,
        bench: Workbench,
        sides: list[Side],
        sampling: Sampling,
        system: str,
        keeper: _Keeper,
        as_json: bool,
    ) -> None:
        self.bench = bench
        self.sides = sides
        self._sampling = sampling
        self._system = system
        self._keeper = keeper
        self._json = as_json

    def ask(self, text: str, *, show_prompt: bool) -> None:
        """Send one message to every side at once, and stream the answers."""
        before = [list(side.turns) for side in self.sides]
        for side in self.sides:
            if not side.turns and self._system:
                side.turns.append(ChatMessage("system", self._system))
            side.turns.append(ChatMessage("user", text))
            side.answer = ""
        titles = [f"[{side.label}] {side.model}" for side in self.sides]

        def told(number: int, piece: ChatPiece) -> None:
            side = self.sides[number]
            if piece.kind == "prompt":
                side.prompt = piece.text
                if show_prompt and not self._json and len(self.sides) == 1:
                    out.line(piece.text)
            elif piece.kind == "end":
                side.answer, side.stats = piece.text, dict(piece.stats)

        try:
            together(
                [partial(self._pieces, side) for side in self.sides],
                [side.model for side in self.sides],
                Quiet() if self._json else view_for(titles),
                told,
            )
        except BaseException:
            # the question may be asked again: it was not answered by all
            for side, turns in zip(self.sides, before, strict=True):
                side.turns[:] = turns
                side.answer = ""
            raise
        for side in self.sides:
            side.turns.append(ChatMessage("assistant", side.answer))
            self._tell(side, show_prompt)

    def _pieces(self, side: Side) -> Iterator[ChatPiece]:
        return self.bench.serving.chat(side.model, list(side.turns), self._sampling)

    def _tell(self, side: Side, show_prompt: bool) -> None:
        """The figures of an answer, or all of it as JSON."""
        if self._json:
            row = {"model": side.model, "answer": side.answer, "prompt": side.prompt, **side.stats}
            out.raw(json.dumps(row, ensure_ascii=False) + "\n")
            return
        if show_prompt and len(self.sides) > 1:
            out.line(side.prompt)
        stats = side.stats
        out.say(
            f"{f'[{side.label}] ' if len(self.sides) > 1 else ''}{stats.get('tokens', 0)} tokens,"
            f" {stats.get('tokens_per_s', 0)} tokens/s,"
            f" first after {stats.get('first_token_s', 0)} s"
        )

    def keep_answer(self) -> None:
        """Keep the conversations as chat rows."""
        for side in self.sides:
            if side.answer:
                self._keeper.keep(conversation_row(side.turns))

    def keep_preference(self, better: str) -> None:
        """Keep ``chosen`` and ``rejected`` for the last question."""
        if len(self.sides) != 2 or not all(side.answer for side in self.sides):
            out.say("a preference needs two answers: start with --beside MODEL and ask something")
            return
        good, bad = self.sides if better == "a" else reversed(self.sides)
        try:
            row = preference_row(good.turns, bad.turns)
        except BadInput as error:
            out.say(error.what)
            return
        self._keeper.keep(row)
        # both go on from the better answer: the next preference has one common prompt
        bad.turns[:] = list(good.turns)


class _Keeper:
    """Where rows worth keeping go: a JSONL file, a dataset, or both."""

    def __init__(self, bench: Workbench, file: Path | None, dataset: str) -> None:
        self._bench = bench
        self._file = file
        self._dataset = dataset
        self._any = False

    @property
    def wanted(self) -> bool:
        """Whether rows are kept without being asked for one by one."""
        return self._file is not None or bool(self._dataset)

    def keep(self, row: dict[str, Any]) -> None:
        """Write a row down at once, in the file and for the dataset."""
        if not self.wanted:
            out.say("nowhere to save: start with --save FILE.jsonl or --dataset NAME")
            return
        if self._dataset:
            count = self._bench.kept.keep(self._dataset, row)
            self._any = True
            out.say(f"kept for {self._dataset} ({count} waiting)")
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.say(f"kept in {self._file}")

    def publish(self) -> None:
        """Make a version of the dataset with the kept rows added."""
        if not self._any:
            return
        try:
            version = self._bench.kept.add(self._dataset)
        except ModelOpsError as error:
            error.hint = f"the rows wait: `modelops-tui data kept {self._dataset} --add`"
            raise
        out.say(f"rows added: {self._dataset}@{version.version}, {version.rows} rows now")
