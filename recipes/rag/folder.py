"""Where documents come from: a folder of files, or a BEIR-like collection in one JSONL file.

A source lists its entries cheaply (names, sizes, times) and loads one when asked.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import BadInput, NotFound
from recipes.rag.readers import MAX_FILE_BYTES, Document, Unreadable, read_document

#: folders that hold no documents of a person
SKIPPED_FOLDERS = {"__pycache__", "node_modules", ".git", ".venv", "venv"}


@dataclass(frozen=True)
class Entry:
    """A document that may be read: its name in the index and what tells a change."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Folder:
    """The files below a folder; hidden ones are left out, links are not followed by default."""

    root: Path
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    max_bytes: int = MAX_FILE_BYTES
    follow_links: bool = False
    trouble: dict[str, str] = field(default_factory=dict)
    """Folders and links that the last scan could not enter, with the reason."""

    def scan(self) -> list[Entry]:
        """Every candidate, sorted by path.

        Raises:
            NotFound: the folder does not exist.
        """
        if not self.root.is_dir():
            raise NotFound(
                f"there is no folder {self.root}",
                hint="an index is made of a folder, not of a file",
            )
        self.trouble.clear()
        return sorted(self._walk(self.root, "", {self._identity(self.root)}), key=lambda e: e.path)

    @staticmethod
    def _identity(path: Path) -> tuple[int, int]:
        stat = path.stat()
        return stat.st_dev, stat.st_ino

    def _walk(self, folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[Entry]:
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError as error:
            self.trouble[prefix or "."] = f"can't be listed: {error.strerror}"
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_symlink() and not self.follow_links:
                    self.trouble[name] = "a symbolic link, not followed"
                elif entry.is_dir():
                    yield from self._enter(entry, name, above)
                elif entry.is_file() and self._wanted(name):
                    stat = entry.stat()
                    yield Entry(name, stat.st_size, stat.st_mtime_ns)
            except OSError as error:
                self.trouble[name] = f"can't be looked at: {error.strerror}"

    def _enter(
        self, entry: os.DirEntry[str], name: str, above: set[tuple[int, int]]
    ) -> Iterator[Entry]:
        if entry.name in SKIPPED_FOLDERS:
            return
        identity = self._identity(Path(entry.path))
        if identity in above:
            self.trouble[name] = "a link to a folder above it"
            return
        yield from self._walk(Path(entry.path), f"{name}/", above | {identity})

    def _wanted(self, name: str) -> bool:
        def fits(patterns: Sequence[str]) -> bool:
            base = name.rpartition("/")[2]
            return any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(base, p) for p in patterns)

        return (not self.include or fits(self.include)) and not fits(self.exclude)

    def load(self, entry: Entry) -> tuple[Document, str]:
        """The document and the sha256 of its bytes.

        Raises:
            Unreadable: see ``recipes.rag.readers``; also a file that changes while it is read.
        """
        path = self.root / entry.path
        for _ in range(3):
            before = self._stamp(path)
            document = read_document(path, self.max_bytes)
            digest = self.digest(entry)
            if self._stamp(path) == before:
                return document, digest
        raise Unreadable("it changed while it was read; the next sync takes it")

    def digest(self, entry: Entry) -> str:
        """sha256 of the file's bytes.

        Raises:
            Unreadable: it can't be opened.
        """
        try:
            with (self.root / entry.path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except PermissionError as error:
            raise Unreadable("no permission to read it") from error
        except OSError as error:
            raise Unreadable(f"can't be read: {error.strerror or error}") from error

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        try:
            stat = path.stat()
        except OSError as error:
            raise Unreadable("it went away while it was read") from error
        return stat.st_size, stat.st_mtime_ns


@dataclass
class Collection:
    """The documents of a BEIR-like folder: ``docs.jsonl`` or ``corpus.jsonl``."""

    root: Path
    trouble: dict[str, str] = field(default_factory=dict)
    _rows: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def scan(self) -> list[Entry]:
        """Every document of the file, in its order.

        Raises:
            NotFound: neither file is there.
            BadInput: a line that is no document, by its number.
        """
        files = [self.root / n for n in ("docs.jsonl", "corpus.jsonl")]
        file = next((f for f in files if f.is_file()), None)
        if file is None:
            raise NotFound(f"{self.root} has no docs.jsonl or corpus.jsonl")
        entries = []
        self._rows.clear()
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    name = str(row.get("id", row.get("_id", "")))
                    title, text = str(row.get("title") or ""), str(row["text"])
                except (ValueError, KeyError, AttributeError) as error:
                    raise BadInput(
                        f"{file.name}:{number} is not a document",
                        why=f"{type(error).__name__}: {error}",
                        hint='a line is {"id": ..., "title": ..., "text": ...}',
                    ) from error
                if not name or name in self._rows:
                    raise BadInput(f"{file.name}:{number} has no id of its own")
                digest = hashlib.sha256(f"{title}\0{text}".encode()).hexdigest()
                self._rows[name] = (title, text, digest)
                # the digest stands for the time: a document changes when its text does
                entries.append(Entry(name, len(text), int(digest[:15], 16)))
        return entries

    def load(self, entry: Entry) -> tuple[Document, str]:
        """The document and its digest.

        Raises:
            Unreadable: it has no text.
        """
        title, text, digest = self._rows[entry.path]
        if not text.strip():
            if not title.strip():
                raise Unreadable("empty document")
            text = title
        return Document(text, title), digest

    def digest(self, entry: Entry) -> str:
        """sha256 of title and text."""
        return self._rows[entry.path][2]


def is_collection(folder: Path) -> bool:
    """True for a folder with queries and relevance judgements beside its documents."""
    documents = any((folder / n).is_file() for n in ("docs.jsonl", "corpus.jsonl"))
    return documents and (folder / "queries.jsonl").is_file()
