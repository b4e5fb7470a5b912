"""From a data reference to tokens and prompts, by the source's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.data.formats import Example, read_examples
from engine.data.masks import Encoder, TemplateProblem, render_chat
from engine.data.rows import read_rows
from engine.data.source import resolve_data
from engine.errors import BadInput
from engine.paths import StatePaths

#: Words of a plain text that become a prompt.
_PROMPT_WORDS = 24


@dataclass(frozen=True)
class Stream:
    """Tokens of the first rows of some data."""

    name: str
    ids: tuple[int, ...]
    rows: int
    """How many rows they come from (the first ones of the file)."""
    short: bool
    """The data ended before the wanted number of tokens."""

    def describe(self) -> str:
        """What was used, for the record."""
        return f"{self.name}: {len(self.ids)} tokens of its first {self.rows} rows"


@dataclass(frozen=True)
class Prompt:
    """The beginning of a conversation or text, ready to generate."""

    text: str
    ids: tuple[int, ...]


def read(ref: str, paths: StatePaths) -> tuple[str, list[Example]]:
    """Every row of the data ``ref`` names, in canonical form, and the data's name."""
    location = resolve_data(ref, paths)
    rows = read_rows(location.path, location.version)
    return location.name, list(read_examples(rows, source=location.name))


def stream(name: str, examples: Sequence[Example], tokenizer: Any, tokens: int) -> Stream:
    """Concatenate rows until ``tokens`` are there.

    Raises:
        BadInput: no row gives a token.
    """
    encoder = Encoder(tokenizer, loss_on="all")
    ids: list[int] = []
    used = 0
    for example in examples:
        if len(ids) >= tokens:
            break
        used += 1
        try:
            ids += encoder.encode(example).ids
        except TemplateProblem:
            ids += tokenizer(example.plain())["input_ids"]
    if not ids:
        raise BadInput(f"{name} gives no tokens", why=f"it has {len(examples)} rows")
    return Stream(name, tuple(ids[:tokens]), used, len(ids) < tokens)


def prompts(examples: Sequence[Example], tokenizer: Any, count: int, room: int) -> list[Prompt]:
    """The first ``count`` prompts that fit ``room`` tokens, evenly spread over the data."""
    step = max(len(examples) // max(count, 1), 1)
    found: list[Prompt] = []
    for example in [*examples[::step], *examples]:
        text, special = _prompt_text(example, tokenizer)
        if not text:
            continue
        ids = tuple(tokenizer(text, add_special_tokens=special)["input_ids"])
        if 0 < len(ids) <= room and all(p.ids != ids for p in found):
            found.append(Prompt(text, ids))
        if len(found) == count:
            break
    return found


def _prompt_text(example: Example, tokenizer: Any) -> tuple[str, bool]:
    """The text to continue, and whether the tokenizer adds its begin token to it."""
    messages = list(example.messages)
    if example.shape in ("preference", "kto", "prompt") and not isinstance(example.prompt, str):
        messages = list(example.prompt)
    while messages and messages[-1].get("role") == "assistant":
        messages.pop()
    if messages and tokenizer.chat_template:
        try:
            return render_chat(tokenizer, messages, example.tools, open_turn=True), False
        except (TemplateProblem, BadInput):
            return "", True
    if isinstance(example.prompt, str) and example.prompt:
        return example.prompt, True
    return " ".join(example.plain().split()[:_PROMPT_WORDS]), True
