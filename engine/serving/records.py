"""What is kept of a deployment: ``serving/<name>/`` with its record, its key and its live status.

``deployment.json`` is the truth about what a deployment is (fsynced; changed under a lock);
``status.json`` is a picture of what it does, believed only while its job runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import BadInput, Conflict, NotFound
from engine.paths import StatePaths
from engine.supervise.durable import read_json, write_durably, write_json_durably
from engine.types.serving import ServedVersion

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")

#: How many earlier versions a record remembers for `serve rollback`.
KEPT_VERSIONS = 10


@dataclass(frozen=True)
class Record:
    """A deployment as it was asked for, and which version it serves."""

    name: str
    ref: str
    backend: str
    job_id: str
    host: str
    port: int
    created: float
    recipe: str
    """The TOML of its recipe: `serve restart` submits it again."""
    task: str = "chat"
    tls: bool = False
    pinned: bool = False
    current: ServedVersion | None = None
    previous: tuple[ServedVersion, ...] = ()
    adapters: dict[str, str] = field(default_factory=dict)
    context: int = 0
    idle_minutes: float = 0.0
    has_key: bool = True

    @property
    def url(self) -> str:
        """Base URL of its OpenAI-compatible API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/v1"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        current = value.get("current")
        previous = value.get("previous") or ()
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(
            **{
                **known,
                "current": ServedVersion(**current) if current else None,
                "previous": tuple(ServedVersion(**item) for item in previous),
            }
        )

    def serving(self, version: ServedVersion) -> Record:
        """The record after a switch to ``version``."""
        if self.current is not None and self.current.model == version.model:
            return self
        before = ((self.current,) if self.current else ()) + self.previous
        kept = tuple(item for item in before if item.model != version.model)
        return replace(self, current=version, previous=kept[:KEPT_VERSIONS])


def check_name(name: str) -> str:
    """``name`` when it can be a deployment's.

    Raises:
        BadInput: it can't.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadInput(
            f"{name!r} can't be the name of a deployment",
            why="lower-case letters, digits, '.', '_' and '-', at most 64, beginning and ending"
            " with a letter or digit",
        )
    return name


def name_for(ref: str) -> str:
    """A deployment's name made from what it serves: ``support-bot`` for ``support-bot@prod``."""
    stem = Path(ref.partition("@")[0]).name.removesuffix(".gguf").removeprefix("sha256:")[:48]
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return check_name(re.sub(r"\.{2,}", ".", cleaned) or "model")


def folder(paths: StatePaths, name: str) -> Path:
    """Home of a deployment's files."""
    return paths.serving / check_name(name)


def exists(paths: StatePaths, name: str) -> bool:
    """Whether a deployment of that name is on record."""
    return (folder(paths, name) / "deployment.json").is_file()


def load(paths: StatePaths, name: str) -> Record:
    """The record of a deployment.

    Raises:
        NotFound: none of that name.
    """
    value = read_json(folder(paths, name) / "deployment.json")
    if value is None:
        known = ", ".join(names(paths)) or "none yet"
        raise NotFound(
            f"there is no deployment {name!r}",
            why=f"deployments: {known}",
            hint="modelops-tui serve start MODEL",
        )
    return Record.from_json(value)


def names(paths: StatePaths) -> list[str]:
    """Every deployment on record, by name."""
    return sorted(path.parent.name for path in paths.serving.glob("*/deployment.json"))


def all_records(paths: StatePaths) -> Iterator[Record]:
    """Every record that can be read."""
    for name in names(paths):
        value = read_json(paths.serving / name / "deployment.json")
        if value is not None:
            yield Record.from_json(value)


def save(paths: StatePaths, record: Record) -> None:
    """Write a record durably, creating its folder."""
    home = folder(paths, record.name)
    paths.ensure()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json_durably(home / "deployment.json", record.to_json())


def change(paths: StatePaths, name: str, how: Callable[[Record], Record]) -> Record:
    """Read, change and write a record under its lock; returns the new one."""
    with locked(paths, name, "record.lock"):
        record = how(load(paths, name))
        save(paths, record)
        return record


def remove(paths: StatePaths, name: str) -> None:
    """Forget a deployment, its key included."""
    shutil.rmtree(folder(paths, name))


@contextmanager
def locked(paths: StatePaths, name: str, file: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock of the deployment's folder.

    Raises:
        Conflict: ``wait`` is False and another process holds it.
    """
    home = folder(paths, name)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(home / file, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Conflict(
                f"the deployment {name!r} is already being served",
                hint=f"`modelops-tui serve status {name}` shows by which job",
            ) from error
        yield


def secret(paths: StatePaths, name: str, file: str) -> str:
    """A secret of the deployment (``key`` or ``admin``), made on first use with mode 0600."""
    path = folder(paths, name) / file
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        with locked(paths, name, "record.lock"):
            if not path.exists():
                write_durably(path, f"{secrets.token_urlsafe(32)}\n".encode())
        return path.read_text().strip()


def write_status(paths: StatePaths, name: str, value: dict[str, Any]) -> None:
    """Show what the deployment does now (whole or not at all; never fsynced)."""
    import json

    target = folder(paths, name) / "status.json"
    partial = target.with_name(".status.json.part")
    partial.write_text(json.dumps(value))
    os.replace(partial, target)


def read_status(paths: StatePaths, name: str) -> dict[str, Any] | None:
    """The last picture of a deployment, or None."""
    return read_json(folder(paths, name) / "status.json")
