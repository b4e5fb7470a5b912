"""What a service process of the ``rag`` kind offers to the CLI and the screens.

Each action is ``fn(params, emit, paths) -> JSON``; models and indexes stay loaded between calls.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from engine.data import resolve_data
from engine.errors import BadInput
from engine.paths import StatePaths
from recipes.rag.pipeline import Job, Pipelines, sync_index
from recipes.rag.retrieve import Filters, Settings

Emit = Callable[[dict[str, Any]], None]


@cache
def pipelines(paths: StatePaths) -> Pipelines:
    """The open indexes of this process."""
    return Pipelines(paths)


def _filters(params: dict[str, Any]) -> Filters:
    given = {"path", "since", "until"} & set(params)
    tags = tuple(params.get("tags") or ())
    return Filters(tags=tags, **{name: str(params[name] or "") for name in given})


def _settings(params: dict[str, Any]) -> Settings:
    names = {f.name for f in dataclasses.fields(Settings)}
    given = {k: v for k, v in (params.get("settings") or {}).items()}
    if unknown := sorted(set(given) - names):
        raise BadInput(f"unknown setting {', '.join(unknown)}", why=f"known: {sorted(names)}")
    return Settings(**given)


def sync(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Bring an index up to date outside of a job. Params: those of ``pipeline.Job``."""
    folder = resolve_data(str(params["folder"]), paths).path
    given = {k: v for k, v in params.items() if k not in ("folder", "include", "exclude")}
    globs = {k: tuple(params.get(k) or ()) for k in ("include", "exclude")}
    last = 0.0

    def progress(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.1 or done == total:
            last = now
            emit({"type": "progress", "done": done, "total": total, "unit": "files", "name": name})

    report = sync_index(Job(folder=Path(folder), **globs, **given), paths, progress=progress)
    return dataclasses.asdict(report)


def search(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """The best chunks. Params: index, query, k, path, tags, since, until, settings."""
    del emit
    retriever = pipelines(paths).get(str(params["index"]))
    found = retriever.search(
        str(params["query"]), int(params.get("k") or 10), _filters(params), _settings(params)
    )
    return dataclasses.asdict(found)
