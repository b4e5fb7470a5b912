"""From an example to token ids and the mask of what is learned: the loss mask, told truthfully.

Assistant turns are found by the template's own generation mask where it has one, else by rendering
the conversation up to each turn and comparing texts. Nothing here imports torch: a tokenizer is
handed in.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, TypeVar

from engine.data.formats import Example, Message
from engine.errors import BadInput

_T = TypeVar("_T")
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
#: No letters: templates may change the case.
_SENTINEL = "\u2e28\u2e29\u2056\u2e29\u2e28"

Span = tuple[int, int]
_begin, _stop = itemgetter(0), itemgetter(1)
#: Generators that yield ``(text, with special tokens)`` and are sent ``(ids, offsets)``.
_Asked = Generator[tuple[str, bool], tuple[list[int], list[Span]], _T]


@dataclass(frozen=True)
class Encoded:
    """One row as tokens.

    ``trained`` has a flag per token: True where the loss is taken. ``ends`` says that the last
    learned token is an end token, so that the model learns to stop. ``length`` counts the tokens
    before any truncation.
    """

    number: int
    ids: list[int]
    trained: list[bool]
    ends: bool
    length: int

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.length > len(self.ids)


class TemplateProblem(ValueError):
    """A conversation that the chat template refuses, or whose turns can't be found in its text."""


_Work = _Asked[Encoded]
_Flags = _Asked[tuple[list[int], list[bool]]]


@dataclass(frozen=True)
class Encoder:
    """Turns examples into tokens with one tokenizer.

    Args:
        tokenizer: a transformers tokenizer (fast: it must give offsets).
        loss_on: ``assistant`` (every assistant turn), ``last`` (the last one) or ``all``.
        add_end: put the end token behind plain texts.
    """

    tokenizer: Any
    loss_on: str = "assistant"
    add_end: bool = True

    def encode(self, example: Example, max_length: int | None = None) -> Encoded:
        """Tokens of one example, cut to ``max_length``.

        Raises:
            TemplateProblem: the template can't render it.
        """
        (found,) = self.encode_many([example])
        if isinstance(found, TemplateProblem):
            raise found
        return found if max_length is None else self.cut(found, max_length)

    def encode_many(self, examples: Sequence[Example]) -> list[Encoded | TemplateProblem]:
        """Tokens of many examples; the tokenizer gets their texts together and uses every core.

        A row that the template can't render stands as its problem. Nothing is cut.
        """
        return self.start(examples)()

    def start(self, examples: Sequence[Example]) -> Callable[[], list[Encoded | TemplateProblem]]:
        """As ``encode_many`` in two steps: texts are made here, the rest when called."""
        found: list[Encoded | TemplateProblem | None] = [None] * len(examples)
        waiting: list[tuple[int, _Work, tuple[str, bool]]] = []

        def go_on(index: int, work: _Work, reply: Any) -> None:
            try:
                waiting.append((index, work, work.send(reply)))
            except StopIteration as done:
                found[index] = done.value
            except TemplateProblem as problem:
                found[index] = problem

        for index, example in enumerate(examples):
            go_on(index, self._encoding(example), None)

        def finish() -> list[Encoded | TemplateProblem]:
            while waiting:
                now = waiting.copy()
                waiting.clear()
                replies = self._tokenize([asked for _, _, asked in now])
                for (index, work, _), reply in zip(now, replies, strict=True):
                    go_on(index, work, reply)
            return [item for item in found if item is not None]

        return finish

    def _tokenize(self, asked: Sequence[tuple[str, bool]]) -> list[tuple[list[int], list[Span]]]:
        """``(ids, offsets)`` of each ``(text, with special tokens)``."""
        backend = self.tokenizer.backend_tokenizer
        # left behind by someone who padded or cut a batch
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        found: list[Any] = [None] * len(asked)
        for special in (True, False):
            places = [i for i, (_, wanted) in enumerate(asked) if wanted is special]
            if not places:
                continue
            texts = [asked[i][0] for i in places]
            # releases the interpreter's lock while it works
            encodings = backend.encode_batch(texts, add_special_tokens=special)
            for place, encoding in zip(places, encodings, strict=True):
                found[place] = (encoding.ids, encoding.offsets)
        return found

    def _encoding(self, example: Example) -> _Work:
        """One row's encoding; yields the texts it needs tokens of, and is sent them."""
        if example.shape in ("preference", "kto"):
            first, second = sides(example)
            chosen = yield from self._encoding(first)
            rejected = (yield from self._encoding(second)) if second is not first else chosen
            return max(chosen, rejected, key=lambda side: side.length)
        if example.shape == "prompt":
            ids, trained = yield from self._prompt(example)
        elif example.shape == "chat":
            ids, trained = yield from self._chat(example)
        elif example.shape == "completion":
            ids, trained = yield from self._completion(
                str(example.prompt), f"{example.completion}{self._end}"
            )
        elif example.shape == "text":
            text = f"{example.text}{self._end}"
            ids, trained = yield from self._spans(text, [(0, len(text))], special=True)
        else:
            raise TemplateProblem(f"a {example.shape} row is not one text to learn")
        return Encoded(example.number, ids, trained, self._ends(ids, trained), len(ids))

    def cut(self, encoded: Encoded, max_length: int) -> Encoded:
        """The row's first ``max_length`` tokens; ``length`` still tells the whole."""
        if len(encoded.ids) <= max_length:
            return encoded
        ids, trained = encoded.ids[:max_length], encoded.trained[:max_length]
        return Encoded(encoded.number, ids, trained, self._ends(ids, trained), encoded.length)

    def _ends(self, ids: list[int], trained: list[bool]) -> bool:
        last = next((i for i in range(len(ids) - 1, -1, -1) if trained[i]), None)
        return last is not None and ids[last] in self.end_ids

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a turn or a text."""
        tokenizer = self.tokenizer
        found = {tokenizer.eos_token_id}
        for token in (
            "<|im_end|>",
            "<|eot_id|>",
            "<end_of_turn>",
            "<|end|>",
            "</s>",
            "<|endoftext|>",
        ):
            token_id = tokenizer.convert_tokens_to_ids(token)
            if token_id is not None and token_id != tokenizer.unk_token_id:
                found.add(token_id)
        return frozenset(i for i in found if i is not None)

    @property
    def _end(self) -> str:
        return self.tokenizer.eos_token or "" if self.add_end else ""

    def _prompt(self, example: Example) -> _Flags:
        """A question alone, as a model is given it: nothing of it is learned."""
        prompt = example.prompt
        if isinstance(prompt, str) and self.tokenizer.chat_template:
            prompt = ({"role": "user", "content": prompt},)
        if isinstance(prompt, str):
            return (yield from self._spans(prompt, [], special=True))
        text = render_chat(self.tokenizer, list(prompt), example.tools, open_turn=True)
        return (yield from self._spans(text, [], special=False))

    def _completion(self, prompt: str, completion: str) -> _Flags:
        """Prompt and completion are cut into tokens apart, as they will be when generating."""
        first, _ = yield from self._spans(prompt, [], special=True)
        second, _ = yield from self._spans(completion, [], special=False)
        if first and first[-1] == self.tokenizer.eos_token_id and not prompt.endswith(self._end):
            # the tokenizer puts an end token behind every text
            first = first[:-1]
        learned = self.loss_on == "all"
        return first + second, [learned] * len(first) + [True] * len(second)

    # -- conversations ----------------------------------------------------------------------------

    def _chat(self, example: Example) -> _Flags:
        template = self.tokenizer.chat_template
        if template and "role" not in template:
            raise BadInput(
                "the chat template has no roles",
                why="it never looks at a message's role: nobody could tell whose words are whose",
                hint='set data.template = "chatml" or the path of a template with roles',
            )
        messages = list(example.messages)
        render = self._renderer(example.tools)
        if self.loss_on == "all":
            text = render(messages, False)
            return (yield from self._spans(text, [(0, len(text))], special=False))
        wanted = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if isinstance(example.prompt, tuple) and example.prompt:
            wanted = [i for i in wanted if i >= len(example.prompt)]
        if self.loss_on == "last":
            wanted = wanted[-1:]
        if self.has_generation_mask and self.loss_on == "assistant" and not example.prompt:
            return self._by_generation_mask(messages, example.tools)
        text = render(messages, False)
        spans = [turn_span(messages, i, text, render) for i in wanted]
        return (yield from self._spans(text, spans, special=False))

    @cached_property
    def has_generation_mask(self) -> bool:
        """Whether the chat template marks what the assistant generates."""
        return bool(_GENERATION_TAG.search(self.tokenizer.chat_template or ""))

    def _by_generation_mask(
        self, messages: list[Message], tools: Sequence[Any]
    ) -> tuple[list[int], list[bool]]:
        found = self.tokenizer.apply_chat_template(
            messages,
            tools=list(tools) or None,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return list(found["input_ids"]), [bool(flag) for flag in found["assistant_masks"]]

    def _renderer(self, tools: Sequence[Any]) -> Callable[[list[Message], bool], str]:
        def render(messages: list[Message], open_turn: bool) -> str:
            return render_chat(self.tokenizer, messages, tools, open_turn)

        return render

    def _spans(self, text: str, spans: Sequence[Span], *, special: bool) -> _Flags:
        special = special and not text.startswith(self.tokenizer.bos_token or "\0")
        ids, offsets = yield (text, special)
        if special and spans and len(ids) > 1 and ids[-1] == ids[-2] == self.tokenizer.eos_token_id:
            # the tokenizer puts an end token of its own behind ours
            ids, offsets = ids[:-1], offsets[:-1]
        trained = [False] * len(ids)
        last = len(ids)
        while special and last > 1 and offsets[last - 1] == (0, 0):
            # tokens put behind the text stand nowhere in it; all others are in its order
            last -= 1
        token = 0
        for start, end in spans:
            # a token that straddles the beginning holds learned characters, too
            first = bisect_right(offsets, start, lo=token, hi=last, key=_stop)
            token = bisect_left(offsets, end, lo=first, hi=last, key=_begin)
            learned = range(first, token)
            trained[first:token] = [stops > begins for begins, stops in offsets[first:token]]
            ending = next(
                (i for i in reversed(learned) if trained[i] and ids[i] in self.end_ids), None
            )
            if ending is not None and not text[offsets[ending][1] : end].strip():
                # white space behind the end token is the template's, not the model's
                trained[ending + 1 : token] = [False] * (token - ending - 1)
        return ids, trained


def sides(example: Example) -> tuple[Example, Example]:
    """A preference row as two examples to learn: chosen and rejected (the same one for KTO)."""

    def one(answer: str | tuple[Message, ...]) -> Example:
        if isinstance(example.prompt, str) and isinstance(answer, str):
            return Example(example.number, "completion", prompt=example.prompt, completion=answer)
        prompt = example.prompt
        if isinstance(prompt, str):
            prompt = ({"role": "user", "content": prompt},)
        if isinstance(answer, str):
            answer = ({"role": "assistant", "content": answer},)
        return Example(example.number, "chat", messages=(*prompt, *answer), prompt=prompt)

    chosen = one(example.completion)
    return chosen, one(example.rejected) if example.shape == "preference" else chosen


def render_chat(
    tokenizer: Any, messages: list[Message], tools: Sequence[Any] = (), open_turn: bool = False
) -> str:
    """The text the chat template makes of a conversation.

    Args:
        tokenizer: has the template.
        messages: the conversation.
        tools: tool definitions for templates that take them.
        open_turn: end with the assistant's opening, ready to generate.

    Raises:
        BadInput: the tokenizer has no template.
        TemplateProblem: the template refuses the conversation.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise BadInput(
            "the base has no chat template",
            why="conversations can't be turned into text without one",
            hint='start from an instruct model, or set data.template = "chatml"',
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=open_turn,
            )
        )
    except TemplateError as error:
        raise TemplateProblem(f"the chat template refuses it: {error}") from error


def turn_span(
    messages: list[Message],
    index: int,
    text: str,
    render: Callable[[list[Message], bool], str],
) -> Span:
    """Where the assistant's turn ``index`` stands in ``text`` (answer and end token).

    The turn begins where the conversation before it, opened for generation, ends; and ends where
    the conversation with it ends. Where a template renders earlier turns differently than later
    ones, the turn is found by rendering it with a mark in its place.

    Raises:
        TemplateProblem: the turn's text can't be found.
    """
    before = render(messages[:index], True) if index else None
    through = text if index + 1 == len(messages) else render(messages[: index + 1], False)
    if before is not None and text.startswith(before) and text.startswith(through):
        return len(before), len(through)
    marked = render(
        [*messages[:index], {**messages[index], "content": _SENTINEL}, *messages[index + 1 :]],
        False,
    )
    head, found, tail = marked.partition(_SENTINEL)
    if not found or not text.startswith(head) or not text.endswith(tail):
        raise TemplateProblem(f"the template hides where the assistant's turn {index + 1} stands")
    end = len(text) - len(tail)
    # the end token directly behind the answer belongs to it
    ending = re.match(r"\s*(<\|?[\w|]+\|?>|</s>)", tail)
    return len(head), end + (ending.end() if ending else 0)
