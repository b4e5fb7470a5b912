"""Where a reference to data leads: a file, a bundled dataset, or a dataset version."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadInput, NotFound
from engine.paths import StatePaths

#: Short names of the data that comes with the program, and their place under ``assets/data``.
BUNDLED: dict[str, str] = {
    "house/train": "house/train.jsonl",
    "house/heldout": "house/heldout.jsonl",
    "house/preferences": "house/preferences.jsonl",
    "house/feedback": "house/feedback.jsonl",
    "house/prompts": "house/prompts.jsonl",
    "neutral": "neutral.txt",
    "mixed": "mixed.jsonl",
    "docs": "docs",
}


@dataclass(frozen=True)
class DataLocation:
    """Data found on this machine."""

    path: Path
    """A file, or a folder for documents and dataset versions."""
    name: str
    version: str | None = None
    manifest: str | None = None
    """``sha256:<hex>`` where it is an artifact of the registry."""


def resolve_data(ref: str, paths: StatePaths) -> DataLocation:
    """Find the data ``ref`` names: a bundled short name, ``name@version``, or a path.

    Raises:
        NotFound: nothing of that name, with the nearest names that exist.
    """
    ref = ref.strip()
    if not ref:
        raise BadInput("an empty data reference", hint="name a file or a dataset")
    if ref in BUNDLED:
        return DataLocation(_bundled(ref), ref)
    path = Path(ref).expanduser()
    if path.exists():
        return DataLocation(path.absolute(), path.name)
    if "@" in ref and not ref.startswith(("/", "./", "../", "~")):
        from engine.data import resolve_version

        return resolve_version(ref, paths)
    near = _versioned(ref, paths) or difflib.get_close_matches(ref, BUNDLED, n=1) or _siblings(path)
    raise NotFound(
        f"there is no data {ref!r}",
        why="it is no file, no dataset version and no bundled dataset",
        hint=f"did you mean {near[0]}?" if near else f"bundled: {', '.join(sorted(BUNDLED))}",
    )


def bundled_or(path: Path) -> Path:
    """``path``, or the bundled data of that name where no file has it."""
    return _bundled(str(path)) if str(path) in BUNDLED and not path.exists() else path


def _bundled(name: str) -> Path:
    import assets

    return Path(assets.__file__).parent / "data" / BUNDLED[name]


def _versioned(ref: str, paths: StatePaths) -> list[str]:
    """A dataset named without its version, as it has to be written."""
    from engine.data.versions import NAME

    known = NAME.fullmatch(ref) and (paths.datasets / ref / "table").is_dir()
    return [f"{ref}@latest"] if known else []


def _siblings(path: Path) -> list[str]:
    folder = path.parent
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir()]
    return [str(folder / name) for name in difflib.get_close_matches(path.name, names, n=1)]
