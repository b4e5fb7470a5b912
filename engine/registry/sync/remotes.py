"""The remotes of this registry: their names and addresses, and the probe that judges a server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import BadInput, Conflict, NotFound
from engine.registry.documents import now
from engine.registry.layout import Layout
from engine.registry.names import check_name
from engine.registry.sync.transport import Folder, Transport
from engine.supervise.durable import read_json, write_json_durably
from engine.types.artifacts import RemoteView

_RACERS = 8


@dataclass(frozen=True)
class Probe:
    """What a server was seen to do."""

    conditional_create: bool
    conditional_replace: bool
    race_winners: int
    """Of eight simultaneous creates of one key; 1 is right."""
    unwritable: str = ""
    """Why nothing could be written there, where that was so."""

    @property
    def shared(self) -> bool:
        """True when several machines may push."""
        return self.conditional_create and self.conditional_replace and self.race_winners == 1

    @property
    def note(self) -> str:
        """The verdict in words."""
        if self.shared:
            return "conditional writes hold: several machines may push"
        if self.unwritable:
            return f"read only from here ({self.unwritable}); `remote probe` looks again"
        found = []
        if not self.conditional_create:
            found.append("it overwrites in spite of If-None-Match")
        if not self.conditional_replace:
            found.append("it replaces in spite of If-Match")
        if self.race_winners != 1:
            found.append(f"{self.race_winners} of {_RACERS} racing creates won")
        return f"single writer only: {'; '.join(found)}"


def connect(url: str, *, conditional: bool = True) -> Transport:
    """The transport of an address.

    Raises:
        BadInput: it is no address we know.
        MissingPart: it needs obstore.
    """
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        from engine.registry.sync.s3 import S3

        return S3(url, conditional=conditional)
    if scheme == "file":
        return _folder(Path(urlsplit(url).path))
    if not scheme and (url.startswith(("/", "./", "../", "~")) or Path(url).is_dir()):
        return _folder(Path(url))
    raise BadInput(
        f"{url!r} is no remote", hint="s3://bucket/prefix?endpoint=http://host:9000, or a folder"
    )


def _folder(path: Path) -> Folder:
    place = Folder(path)
    if place.root.exists() and not place.root.is_dir():
        raise BadInput(f"{place.root} is no folder", hint="name a folder; a new one is made")
    return place


def probe(transport: Transport) -> Probe:
    """Write a few objects of our own and see whether conditions are honoured; they are removed.

    Never believed by name or version: a server that says it is S3 may ignore every condition.
    """
    key = f"probe/{secrets.token_hex(8)}"
    raced = f"{key}-race"
    try:
        first = transport.create(key, b"one")
        again = transport.create(key, b"two")
        data, tag = transport.get(key, 64)
        create = first and not again and data == b"one"
        moved = transport.replace(key, b"three", tag)
        stale = transport.replace(key, b"four", tag)
        replace = moved and not stale and transport.get(key, 64)[0] == b"three"
        with ThreadPoolExecutor(_RACERS) as pool:
            wins = list(
                pool.map(lambda n: transport.create(raced, str(n).encode()), range(_RACERS))
            )
    finally:
        for used in (key, raced):
            try:
                transport.delete(used)
            except NotFound:
                continue
    return Probe(create, replace, sum(wins))


class Remotes:
    """``state/remotes.json``: names, addresses, verdicts. Never a credential."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "remotes.json"

    def _read(self) -> dict[str, dict[str, str]]:
        found = read_json(self._path) or {}
        return {str(name): dict(entry) for name, entry in found.items()}

    def list(self) -> tuple[RemoteView, ...]:
        """Every remote, by name."""
        return tuple(_view(name, entry) for name, entry in sorted(self._read().items()))

    def get(self, name: str) -> RemoteView:
        """One remote.

        Raises:
            NotFound: there is none of that name.
        """
        found = self._read()
        if name not in found:
            raise NotFound(
                f"there is no remote {name!r}",
                why=f"remotes: {', '.join(sorted(found)) or 'none'}",
                hint="modelops-tui remote add NAME s3://bucket/prefix?endpoint=...",
            )
        return _view(name, found[name])

    def add(self, name: str, url: str, verdict: Probe) -> RemoteView:
        """Keep a probed remote.

        Raises:
            Conflict: the name is taken.
        """
        check_name(name)
        found = self._read()
        if name in found:
            raise Conflict(f"there is a remote {name!r} already", hint="remove it first")
        found[name] = {"url": url, "shared": json.dumps(verdict.shared), "note": verdict.note}
        write_json_durably(self._path, found)
        return _view(name, found[name])

    def judge(self, name: str, verdict: Probe) -> RemoteView:
        """Keep a new verdict of the probe."""
        return self._update(name, shared=json.dumps(verdict.shared), note=verdict.note)

    def mark(self, name: str, what: str) -> None:
        """Remember when the last push or pull was."""
        self._update(name, **{f"last_{what}": now()})

    def remove(self, name: str) -> None:
        """Forget a remote; what was seen there stays, so a rollback is noticed all the same."""
        self.get(name)
        found = self._read()
        del found[name]
        write_json_durably(self._path, found)

    def open(self, name: str, maker: Callable[..., Transport] = connect) -> Transport:
        """The transport of a remote."""
        view = self.get(name)
        return maker(view.url, conditional=view.shared)

    def _update(self, name: str, **fields: str) -> RemoteView:
        self.get(name)
        found = self._read()
        found[name] |= fields
        write_json_durably(self._path, found)
        return _view(name, found[name])


def _view(name: str, entry: dict[str, str]) -> RemoteView:
    return RemoteView(
        name,
        entry["url"],
        entry.get("shared") == "true",
        entry.get("note", ""),
        entry.get("last_push", ""),
        entry.get("last_pull", ""),
    )
