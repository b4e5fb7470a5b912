"""Every command that a hint, a screen or a page names can be given as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelops_tui.cli.lazy import COMMANDS, load

ROOT = Path(__file__).resolve().parents[2]
#: Up to where a command goes: a quotation mark, a pipe, a comment, another command.
_END = re.compile(r"[`\"';|>#]|modelops-tui|  ")


def mentions() -> list[tuple[str, str]]:
    """(where, what stands behind the program's name)."""
    files = [ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
    for folder in ("engine", "recipes", "screens", "modelops_tui", "docs"):
        files += sorted(
            p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".toml")
        )
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            found += [
                (f"{file.relative_to(ROOT)}:{number}", rest)
                for rest in line.split("modelops-tui ")[1:]
            ]
    return found


def mistake(text: str) -> str | None:
    """What is wrong with ``jobs list --json ...``; None where it is a command or none is meant."""
    words = _END.split(text)[0].split()
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return None
    if words[0] not in COMMANDS:
        return f"no command {words[0]}"
    command: Any = load(words.pop(0))
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        if words[0] not in command.commands:
            return f"{command.name} has no {words[0]}"
        command = command.commands[words.pop(0)]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    options = [match[0] for match in re.finditer(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words))]
    unknown = [option for option in options if option not in known]
    return f"{command.name} has no {', '.join(unknown)}" if unknown else None


def test_every_command_named_anywhere_exists() -> None:
    found = mentions()
    assert len(found) > 300
    wrong = [f"{where}: {told}" for where, text in found if (told := mistake(text))]
    assert wrong == []


def test_what_is_wrong_is_found() -> None:
    assert mistake("jobs list --json`") is None
    assert mistake("gateway token add NAME --scope run") is None
    assert mistake("serve log NAME") == "serve has no log"
    assert mistake("jobs show x --jsonn") == "show has no --jsonn"
    assert mistake("frobnicate") == "no command frobnicate"
