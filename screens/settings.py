"""The screens' own settings: the ``[ui]`` and ``[keys]`` tables of ``config.toml``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class UiSettings:
    """Each value may be set with ``modelops-tui config set ui.<name> <value>``."""

    theme: str = "auto"
    """auto, workbench-dark, workbench-light, high-contrast, ansi-dark or ansi-light; ``auto`` is
    ``ansi-dark`` on 16 colours and under NO_COLOR, else ``workbench-dark``."""
    mouse: str = "auto"
    """``auto`` (off over SSH), ``on`` or ``off``."""
    ascii: bool = False
    """Draw with ASCII only."""
    fps: int = 0
    """Repaints a second at most; 0: 15 over SSH, else Textual's own."""
    start_engine: bool = True
    """Start the engine with the screens when none runs."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """The ``[keys]`` table: action id to keys, such as ``cancel-job = "X"``."""
    problems: tuple[str, ...] = ()
    """What in the tables can't be used, in words."""

    @property
    def mouse_on(self) -> bool:
        """Whether the terminal is asked for mouse events."""
        return self.mouse == "on" or (self.mouse == "auto" and not over_ssh())


def over_ssh() -> bool:
    """True in a session that came over SSH."""
    return any(os.environ.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))


def few_colours() -> bool:
    """True where the terminal has 16 colours or fewer, or colour is not wanted (NO_COLOR)."""
    if os.environ.get("NO_COLOR"):
        return True
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    term = os.environ.get("TERM", "")
    return not any(mark in term for mark in ("256color", "direct", "kitty", "alacritty", "ghostty"))


def load_settings(path: Path) -> UiSettings:
    """The screens' tables of ``config.toml``, without what checks all of it (60 ms of pydantic)."""
    if not path.exists():
        return UiSettings()
    import tomllib

    try:
        return read_settings(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return UiSettings(problems=(f"{path} can't be read: {error}; the defaults are used",))


def read_settings(config: Mapping[str, Any]) -> UiSettings:
    """The screens' settings out of the whole configuration; what is wrong is left out and named."""
    table = config.get("ui", {})
    known = {f.name: f.default for f in fields(UiSettings) if f.name not in ("keys", "problems")}
    problems = []
    values: dict[str, Any] = {}
    for name, value in (table if isinstance(table, Mapping) else {}).items():
        if name not in known:
            problems.append(f"there is no setting ui.{name}")
        elif type(value) is not type(known[name]):
            problems.append(f"ui.{name}: {value!r} is not a {type(known[name]).__name__}")
        else:
            values[name] = value
    if values.get("mouse", "auto") not in ("auto", "on", "off"):
        problems.append(f"ui.mouse: {values.pop('mouse')!r} is not auto, on or off")
    keys, wrong = _keymap(config.get("keys", {}))
    return UiSettings(**values, keys=keys, problems=(*problems, *wrong))


def _keymap(table: Any) -> tuple[dict[str, str], list[str]]:
    from screens.actions import ACTIONS, FORBIDDEN_KEYS

    known = {action.id for action in ACTIONS}
    keys: dict[str, str] = {}
    problems = []
    for name, value in (table if isinstance(table, Mapping) else {}).items():
        if name not in known:
            problems.append(f"keys.{name}: there is no such action (docs/keys.md lists them)")
        elif not isinstance(value, str) or not value.strip():
            problems.append(f'keys.{name}: a key such as "X" or "ctrl+x,f5" is needed')
        elif taken := {key.strip() for key in value.split(",")} & FORBIDDEN_KEYS:
            problems.append(f"keys.{name}: {', '.join(sorted(taken))} can't be used in a terminal")
        else:
            keys[name] = value
    return keys, problems
