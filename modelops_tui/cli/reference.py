"""The command reference in docs/cli.md, written from the commands themselves.

``python -m modelops_tui.cli.reference docs/cli.md`` renews the part below its marker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelops_tui.cli.lazy import available, load

MARKER = (
    "<!-- everything below is written by `python -m modelops_tui.cli.reference docs/cli.md` -->"
)


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups before their commands."""
    for name in available():
        yield from _walk((name,), load(name))


def _walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk((*path, name), child)


def markdown() -> str:
    """The reference of every command: usage, help, arguments and options."""
    lines: list[str] = []
    for path, command in commands():
        if command.hidden:
            continue
        group = hasattr(command, "commands")
        if len(path) == 1:
            lines += ["", f"## {path[0]}", "", _text(command.help)]
            if group:
                continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        usage = " ".join(["modelops-tui", *path, *(_argument(a) for a in arguments)])
        lines += ["", f"### `{usage}`"]
        if len(path) > 1:
            lines += ["", _text(command.help)]
        told = [
            f"- `{_argument(a)}`: {_text(a.help)}" for a in arguments if getattr(a, "help", None)
        ]
        told += [_option(o) for o in options if o.name != "help"]
        if told:
            lines += ["", *told]
    return "\n".join(lines).strip() + "\n"


def _argument(argument: Any) -> str:
    name = argument.metavar or str(argument.name).upper().rstrip("_")
    if argument.nargs != 1 and not name.endswith("..."):
        name += "..."
    return str(name if argument.required else f"[{name}]")


def _option(option: Any) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        names += " / " + ", ".join(option.secondary_opts)
    if not option.is_flag:
        names += f" {option.metavar or _kind_of(option)}"
    default = option.default
    plain = default not in (None, "", False, ()) and not callable(default) and not option.is_flag
    said = f" Default: {default}." if plain else ""
    return f"- `{names}`: {_text(option.help)}{said}".rstrip(": ")


def _kind_of(option: Any) -> str:
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", str)
    words = {int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return words.get(annotation, "TEXT")


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def renew(path: Path) -> bool:
    """Write the reference below the marker of a page.

    Returns:
        False when it stood there already.
    """
    before = path.read_text(encoding="utf-8")
    head = before.partition(MARKER)[0].rstrip()
    after = f"{head}\n\n{MARKER}\n\n{markdown()}"
    if after == before:
        return False
    path.write_text(after, encoding="utf-8")
    return True


if __name__ == "__main__":
    for target in sys.argv[1:]:
        sys.stderr.write(f"{target}: {'renewed' if renew(Path(target)) else 'up to date'}\n")
