"""Telling data formats apart by looking, and turning every row into one canonical example.

A row that fits no format, or another one than the rows before it, is named by its number, with the
keys it has and the formats it nearly fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.data.rows import Row
from engine.errors import BadInput

Message = dict[str, Any]

_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_TRUE = {"true", "1", "yes", "good"}
_FALSE = {"false", "0", "no", "bad"}
_SHOWN_ERRORS = 10


class RowProblem(ValueError):
    """A row does not have the shape its format asks for."""


@dataclass(frozen=True)
class Example:
    """A row in canonical form; which fields are set depends on ``shape``.

    ``chat``: ``messages``. ``completion``: ``prompt`` and ``completion`` texts. ``text``: ``text``.
    ``preference``: ``prompt`` messages or text, ``completion`` (the chosen one), ``rejected``.
    ``kto``: ``prompt``, ``completion``, ``label``. ``prompt``: ``prompt`` alone.
    """

    number: int
    shape: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    prompt: str | tuple[Message, ...] = ""
    completion: str | tuple[Message, ...] = ""
    rejected: str | tuple[Message, ...] = ""
    label: bool = True
    tools: tuple[Any, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> str:
        """The words of the example without any template, for duplicate and placeholder checks."""
        parts = [self.text]
        for piece in (self.messages, self.prompt, self.completion, self.rejected):
            if isinstance(piece, str):
                parts.append(piece)
            else:
                parts.extend(str(message.get("content") or "") for message in piece)
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Format:
    """A data format: the keys that tell it, and how a row of it is read."""

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    read: Callable[[dict[str, Any], int], Example]
    forbidden: frozenset[str] = frozenset()

    def fits(self, keys: frozenset[str]) -> bool:
        """Whether a row with these keys can be of this format."""
        return self.required <= keys and not self.forbidden & keys


def messages_of(value: object, where: str, roles: Mapping[str, str] | None = None) -> list[Message]:
    """Check a list of messages and return it with roles and contents normalised.

    Args:
        value: what the row holds.
        where: the key's name, for the message.
        roles: names of roles to ours (None: the standard ones, unchanged).

    Raises:
        RowProblem: no list, no role, an unknown role, or a content that is not text.
    """
    if not isinstance(value, list) or not value:
        shown = "an empty list" if value == [] else f"a {type(value).__name__}"
        raise RowProblem(f"{where!r} must be a list of messages, it is {shown}")
    role_key, text_key = ("role", "content") if roles is None else ("from", "value")
    found = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise RowProblem(f"{where}[{index}] is a {type(item).__name__}, not a message")
        if roles is not None and "role" in item:
            role_key, text_key = "role", "content"
        role = item.get(role_key)
        if role is None:
            raise RowProblem(f"{where}[{index}] has no {role_key!r} (it has {_listed(item)})")
        role = (roles or {}).get(str(role), role)
        if role not in _ROLES:
            known = ", ".join(sorted(roles or _ROLES))
            raise RowProblem(f"{where}[{index}] has the unknown role {role!r} (known: {known})")
        message = {"role": role, "content": _content(item.get(text_key), f"{where}[{index}]")}
        for key in ("tool_calls", "name", "tool_call_id"):
            if item.get(key) is not None:
                message[key] = item[key]
        found.append(message)
    return found


def _content(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = []
        for part in value:
            if not isinstance(part, Mapping) or part.get("type") != "text":
                raise RowProblem(f"{where} has a content part that is no text")
            parts.append(str(part.get("text", "")))
        return "".join(parts)
    raise RowProblem(f"the content of {where} is a {type(value).__name__}, not text")


def _listed(item: Mapping[str, Any]) -> str:
    return ", ".join(repr(key) for key in item) or "no key"


def _string(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowProblem(f"{key!r} is a {type(value).__name__}, not text")
    return value


def _text_or_messages(values: Mapping[str, Any], key: str) -> str | tuple[Message, ...]:
    value = values.get(key)
    if isinstance(value, list):
        return tuple(messages_of(value, key))
    return _string(values, key)


def _tools(values: Mapping[str, Any]) -> tuple[Any, ...]:
    tools = values.get("tools")
    return tuple(tools) if isinstance(tools, list) else ()


def _chat(values: dict[str, Any], number: int) -> Example:
    messages = messages_of(values["messages"], "messages")
    return Example(number, "chat", messages=tuple(messages), tools=_tools(values))


def _sharegpt(values: dict[str, Any], number: int) -> Example:
    messages = messages_of(values["conversations"], "conversations", _SHAREGPT_ROLES)
    system = _string(values, "system")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Example(number, "chat", messages=tuple(messages), tools=_tools(values))


def _alpaca(values: dict[str, Any], number: int) -> Example:
    question, given = _string(values, "instruction"), _string(values, "input")
    messages: list[Message] = []
    if system := _string(values, "system"):
        messages.append({"role": "system", "content": system})
    for turn in values.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise RowProblem("'history' must be a list of [question, answer] pairs")
        messages.append({"role": "user", "content": str(turn[0])})
        messages.append({"role": "assistant", "content": str(turn[1])})
    messages.append({"role": "user", "content": f"{question}\n\n{given}" if given else question})
    messages.append({"role": "assistant", "content": _string(values, "output")})
    return Example(number, "chat", messages=tuple(messages))


def _prompt_completion(values: dict[str, Any], number: int) -> Example:
    prompt, completion = (_text_or_messages(values, k) for k in ("prompt", "completion"))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise RowProblem("'prompt' and 'completion' must both be text or both be messages")
    if isinstance(prompt, str) or isinstance(completion, str):
        return Example(number, "completion", prompt=prompt, completion=completion)
    return Example(number, "chat", messages=(*prompt, *completion), prompt=prompt)


def _text(values: dict[str, Any], number: int) -> Example:
    return Example(number, "text", text=_string(values, "text"))


def _preference(values: dict[str, Any], number: int) -> Example:
    chosen, rejected = (_text_or_messages(values, k) for k in ("chosen", "rejected"))
    prompt = _text_or_messages(values, "prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowProblem("'chosen' and 'rejected' must both be text or both be messages")
    if not isinstance(chosen, str) and not isinstance(rejected, str) and not prompt:
        # both answers repeat the conversation: what they share is the prompt
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise RowProblem(
                "'chosen' and 'rejected' share no first message and there is no prompt"
            )
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = ({"role": "user", "content": prompt},)
    if not isinstance(prompt, str) and isinstance(chosen, str):
        chosen = ({"role": "assistant", "content": chosen},)
        rejected = ({"role": "assistant", "content": str(rejected)},)
    return Example(number, "preference", prompt=prompt, completion=chosen, rejected=rejected)


def _kto(values: dict[str, Any], number: int) -> Example:
    label = values["label"]
    if isinstance(label, str) and label.lower() in _TRUE | _FALSE:
        label = label.lower() in _TRUE
    if not isinstance(label, (bool, int)) or label not in (0, 1):
        raise RowProblem(f"'label' must be true or false, it is {label!r}")
    prompt, completion = (_text_or_messages(values, k) for k in ("prompt", "completion"))
    return Example(number, "kto", prompt=prompt, completion=completion, label=bool(label))


def _prompt(values: dict[str, Any], number: int) -> Example:
    extra = {key: value for key, value in values.items() if key != "prompt"}
    return Example(number, "prompt", prompt=_text_or_messages(values, "prompt"), extra=extra)


def _format(
    name: str,
    required: str,
    optional: str,
    read: Callable[[dict[str, Any], int], Example],
    forbidden: str = "",
) -> Format:
    words = (frozenset(text.split()) for text in (required, optional, forbidden))
    return Format(name, next(words), next(words), read, next(words))


#: In the order in which they are tried: the most telling keys first.
FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        _format("chat", "messages", "tools", _chat),
        _format("sharegpt", "conversations", "system tools", _sharegpt),
        _format("preference", "chosen rejected", "prompt", _preference),
        _format("kto", "prompt completion label", "", _kto),
        _format("alpaca", "instruction output", "input system history", _alpaca),
        _format("prompt-completion", "prompt completion", "", _prompt_completion, "label"),
        _format("text", "text", "", _text, "messages prompt"),
        _format("prompt", "prompt", "", _prompt, "completion chosen"),
    )
}


def detect(keys: Iterable[str]) -> Format | None:
    """The first format whose keys are all among ``keys``, or None."""
    found = frozenset(keys)
    return next((item for item in FORMATS.values() if item.fits(found)), None)


def nearly_fits(keys: Iterable[str]) -> str:
    """``alpaca (missing 'output'), text (missing 'text')``: the formats that miss least."""
    found = frozenset(keys)
    scored = sorted(
        (len(item.required - found), name)
        for name, item in FORMATS.items()
        if item.required & found
    )
    chosen = [FORMATS[name] for _, name in scored[:2]]
    return ", ".join(
        f"{item.name} (missing {', '.join(map(repr, sorted(item.required - found)))})"
        for item in chosen
        if item.required - found
    )


def read_examples(
    rows: Iterable[Row],
    format_name: str = "auto",
    columns: Mapping[str, str] | None = None,
    source: str = "the data",
) -> Iterator[Example]:
    """Turn rows into canonical examples; the format of the first row holds for all of them.

    Args:
        rows: what ``engine.data.rows.read_rows`` yields.
        format_name: a name of ``FORMATS`` or ``auto``.
        columns: expected name to the column's real name.
        source: the file's name for messages.

    Raises:
        BadInput: every bad row (the first ten are named), or no row at all.
    """
    chosen = None if format_name == "auto" else FORMATS[format_name]
    problems: list[str] = []
    bad = count = 0
    for row in rows:
        count += 1
        values = _renamed(row, columns or {}, source)
        try:
            if chosen is None:
                chosen = _chosen(values)
            yield _one(chosen, values, row.number)
        except RowProblem as error:
            bad += 1
            if len(problems) < _SHOWN_ERRORS:
                problems.append(f"row {row.number}: {error}")
    if not count:
        raise BadInput(f"{source} has no rows", hint="an empty file or split teaches nothing")
    if bad:
        more = f"\n... and {bad - len(problems)} more" if bad > len(problems) else ""
        name = chosen.name if chosen else format_name
        raise BadInput(
            f"{source}: {bad} of {count} rows can't be read as {name}",
            why="\n".join(problems) + more,
            hint="mend these rows, or name the right format or columns in the recipe's data table",
        )


def _renamed(row: Row, columns: Mapping[str, str], source: str) -> dict[str, Any]:
    if not columns:
        return row.values
    values = dict(row.values)
    for wanted, real in columns.items():
        if real not in row.values:
            raise BadInput(
                f"{source}: there is no column {real!r}",
                why=f"row {row.number} has {_listed(row.values)}",
                hint=f"correct data.columns.{wanted}",
            )
        values[wanted] = values.pop(real)
    return values


def _chosen(values: Mapping[str, Any]) -> Format:
    found = detect(values)
    if found is None:
        near = nearly_fits(values)
        known = "; ".join(f"{f.name}: {' + '.join(sorted(f.required))}" for f in FORMATS.values())
        raise RowProblem(
            f"its keys {_listed(values)} fit no format"
            + (f"; nearly: {near}" if near else f" ({known})")
        )
    return found


def _one(chosen: Format, values: dict[str, Any], number: int) -> Example:
    missing = chosen.required - values.keys()
    if missing:
        other = detect(values)
        text = f"no {', '.join(map(repr, sorted(missing)))} (it has {_listed(values)})"
        if other is not None:
            raise RowProblem(f"{text}: it is {other.name}, the rows before it are {chosen.name}")
        near = nearly_fits(values)
        raise RowProblem(text + (f"; nearly fits {near}" if near else ""))
    return chosen.read(values, number)
