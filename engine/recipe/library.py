"""The library: recipes shipped with the program, with plugins, and the user's own.

Shipped ones lie beside their kind (``recipes/<kind>/*.toml``); the user's own in ``recipes`` under
the state directory, and shadow shipped ones of the same name.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from engine.errors import BadInput, Conflict, NotFound
from engine.kinds import load_kinds
from engine.paths import StatePaths
from engine.recipe.nearest import nearest
from engine.supervise.durable import write_durably
from engine.types.recipes import LibraryEntry

Origin = Literal["shipped", "plugin", "own"]


def own_folder(paths: StatePaths) -> Path:
    """Where the user's own recipes are."""
    return paths.root / "recipes"


def entries(paths: StatePaths) -> tuple[LibraryEntry, ...]:
    """Every recipe, by name; one that can't be read is listed with its problem."""
    found: dict[str, LibraryEntry] = {}
    for origin, file, folder in _files(paths):
        name = file.stem
        if name in found and found[name].origin == "shipped" and origin == "shipped":
            name = f"{folder}/{file.stem}"
        if name not in found:
            found[name] = _entry(name, file, origin)
    return tuple(found[name] for name in sorted(found))


def _files(paths: StatePaths) -> Iterator[tuple[Origin, Path, str]]:
    own = own_folder(paths)
    if own.is_dir():
        for file in sorted(own.rglob("*.toml")):
            yield "own", file, file.parent.name
    spec = importlib.util.find_spec("recipes")
    shipped = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    for root in shipped:
        # one folder a kind: deeper files (a backend's own settings) are no recipes
        for file in sorted(root.glob("*/*.toml")):
            yield "shipped", file, file.parent.name
    seen: set[Path] = set()
    for kind in load_kinds().kinds.values():
        package = kind.run.partition(":")[0].rpartition(".")[0]
        spec = importlib.util.find_spec(package) if package else None
        for place in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(place)
            if folder in seen or any(folder.is_relative_to(root) for root in shipped):
                continue
            seen.add(folder)
            for file in sorted(folder.glob("*.toml")):
                yield "plugin", file, folder.name


def _entry(name: str, file: Path, origin: Origin) -> LibraryEntry:
    kind, summary, problem = "", "", ""
    try:
        text = file.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
        kind = str(document.get("kind", ""))
        summary = str(document.get("description", "")) or _first_comment(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = str(error)
    return LibraryEntry(name, str(file), kind, " ".join(summary.split()), origin, problem)


def _first_comment(text: str) -> str:
    """The first comment line that is a sentence (not the editor's schema line)."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return ""
        words = line.lstrip("#").strip()
        if words and not line.startswith("#:"):
            return words
    return ""


def find(name: str, paths: StatePaths) -> Path:
    """The file of a recipe: a path, or a name of the library.

    Raises:
        NotFound: neither, with the nearest name.
    """
    path = Path(name).expanduser()
    looks_like_path = name.endswith(".toml") or name.startswith((".", "/", "~"))
    if path.is_file() and (looks_like_path or not path.suffix):
        return path
    if not looks_like_path:
        listed = entries(paths)
        for entry in listed:
            if entry.name == name:
                return Path(entry.path)
        close = nearest(name, [entry.name for entry in listed])
        raise NotFound(
            f"there is no recipe {name!r}",
            why="it is no file and not in the library",
            hint=f"did you mean {close}?"
            if close
            else "`modelops-tui recipe list` shows the library",
        )
    if path.exists() and not path.is_dir():
        return path
    beside = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    raise NotFound(
        f"{name} is a folder, not a recipe" if path.is_dir() else f"there is no recipe file {name}",
        hint=f"did you mean {path.with_name(close)}?"
        if close
        else "`modelops-tui recipe list` shows the library",
    )


def save(name: str, text: str, paths: StatePaths, *, overwrite: bool = False) -> Path:
    """Write a recipe into the user's own library.

    Raises:
        BadInput: the name is no file name.
        Conflict: there is one of that name.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 100:
        raise BadInput(f"{name!r} can't be a recipe's file name", hint="letters, digits, - and _")
    target = own_folder(paths) / f"{name.removesuffix('.toml')}.toml"
    write_new(target, text, overwrite=overwrite)
    return target


def write_new(target: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file that must not exist yet, whole or not at all.

    Raises:
        Conflict: it exists, and ``overwrite`` was not asked for.
        BadInput: its folder can't be written.
    """
    if target.exists() and not overwrite:
        raise Conflict(f"{target} exists already", hint="--force replaces it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, text.encode())
    except OSError as error:
        raise BadInput(f"{target} can't be written", why=error.strerror or str(error)) from error
