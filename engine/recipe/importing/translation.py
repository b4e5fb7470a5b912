"""The sheet a dialect writes on: our keys, what was not translated, and what was decided."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.types.recipes import UntranslatedKey

Path_ = tuple[str, ...]
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Untranslatable(Exception):
    """A handler can't express a value in our grammar; the text is the reason."""


@dataclass
class Translation:
    """Collects one translation. Foreign keys are dotted."""

    folder: Path
    """Folder of the foreign file: its relative paths start here."""
    values: dict[Path_, Any] = field(default_factory=dict)
    """Our keys and values."""
    sources: dict[Path_, tuple[str, Any]] = field(default_factory=dict)
    """Our key -> the foreign key and value it comes from."""
    untranslated: list[UntranslatedKey] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    current: tuple[str, Any] = ("", None)
    """The foreign key being read."""

    def put(self, path: str, value: Any) -> None:
        """Set one of our keys from the foreign key being read; the first one that sets it wins.

        Raises:
            Untranslatable: another foreign key has set it to something else.
        """
        key = tuple(path.split("."))
        if key in self.values and self.values[key] != value:
            other = self.sources[key][0]
            raise Untranslatable(f"{other} has set {path} to {self.values[key]!r} already")
        self.values[key] = value
        self.sources[key] = self.current

    def default(self, path: str, value: Any, why: str) -> None:
        """Write a foreign default out where ours differs; says so."""
        key = tuple(path.split("."))
        if key not in self.values:
            self.values[key] = value
            self.note(f"{path} = {value!r}: not set there, {why}")

    def get(self, path: str) -> Any:
        return self.values.get(tuple(path.split(".")))

    def leave(self, key: str, value: Any, reason: str) -> None:
        """List a foreign key as not translated."""
        if not any(item.key == key for item in self.untranslated):
            self.untranslated.append(UntranslatedKey(key, value, reason))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


Handler = Callable[[Translation, Any], None]


def apply_rules(
    sheet: Translation,
    foreign: Mapping[str, Any],
    rules: Mapping[str, Handler],
    reasons: Mapping[str, str],
    rest: Callable[[Translation, str, Any], None],
) -> None:
    """Send every foreign key to its rule, to its reason, or to ``rest``.

    Keys without a value (``null``) mean their default and are left out.
    """
    for key, value in foreign.items():
        if value is None:
            continue
        sheet.current = (key, value)
        if key in rules:
            try:
                rules[key](sheet, value)
            except Untranslatable as error:
                sheet.leave(key, value, str(error))
        elif (reason := _reason(key, reasons)) is not None:
            sheet.leave(key, value, reason)
        else:
            rest(sheet, key, value)


def _reason(key: str, reasons: Mapping[str, str]) -> str | None:
    """The reason for a key, or for a prefix written as ``wandb_*``."""
    if key in reasons:
        return reasons[key]
    for pattern, reason in reasons.items():
        if pattern.endswith("*") and key.startswith(pattern[:-1]):
            return reason
    return None


# -- values -----------------------------------------------------------------------------------


def as_number(sheet: Translation, value: Any) -> float | int:
    """A number; PyYAML reads ``3e-4`` (no dot) as text, so text that is a number counts as one.

    Raises:
        Untranslatable: it is no number.
    """
    if isinstance(value, bool):
        raise Untranslatable(f"{value} is no number")
    if isinstance(value, (int, float)):
        return value
    text = str(value).strip()
    if not _NUMBER.fullmatch(text):
        raise Untranslatable(f"{value!r} is no number")
    number = float(text.replace("_", ""))
    sheet.note(f"{sheet.current[0]}: YAML reads {text} as text; taken as the number {number:g}")
    return int(number) if number.is_integer() and not re.search(r"[.eE]", text) else number


def as_whole(sheet: Translation, value: Any) -> int:
    """A whole number.

    Raises:
        Untranslatable: it is none.
    """
    number = as_number(sheet, value)
    if number != int(number):
        raise Untranslatable(f"{value!r} is no whole number")
    return int(number)


def as_flag(value: Any) -> bool:
    """True or false, also as text.

    Raises:
        Untranslatable: it is neither.
    """
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1", "unsloth"):
        return True
    if word in ("false", "no", "off", "0", "none", ""):
        return False
    raise Untranslatable(f"{value!r} is neither true nor false")


def number_to(path: str) -> Handler:
    """A rule: the key is a number of ours."""
    return lambda sheet, value: sheet.put(path, as_number(sheet, value))


def decimal_to(path: str) -> Handler:
    """A rule: the key is a decimal number of ours."""
    return lambda sheet, value: sheet.put(path, float(as_number(sheet, value)))


def whole_to(path: str) -> Handler:
    """A rule: the key is a whole number of ours."""
    return lambda sheet, value: sheet.put(path, as_whole(sheet, value))


def flag_to(path: str) -> Handler:
    """A rule: the key is a flag of ours; false is our default and left out."""

    def rule(sheet: Translation, value: Any) -> None:
        if as_flag(value):
            sheet.put(path, True)

    return rule


def text_to(path: str) -> Handler:
    """A rule: the key is a text of ours."""
    return lambda sheet, value: sheet.put(path, str(value))


def ignored(_: Translation, __: Any) -> None:
    """A rule: the key says what holds anyway, or was used to understand another key."""
