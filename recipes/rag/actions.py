"""What a service process of the ``rag`` kind offers to the CLI and the screens.

Each action is ``fn(params, emit, paths) -> JSON``; models and indexes stay loaded between calls.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from engine.data import resolve_data
from engine.errors import BadInput
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.answer import Asker, AskOptions, Conversation
from recipes.rag.deployed import deployment
from recipes.rag.folder import is_collection
from recipes.rag.model import AnswerModel, LocalModel
from recipes.rag.pipeline import Job, Pipelines, sync_index
from recipes.rag.retrieve import Filters, Settings

#: who answers when nobody is named: the packaged small model
ANSWER_MODEL = "smollm2-135m-instruct"

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
    globs: dict[str, Any] = {k: tuple(params.get(k) or ()) for k in ("include", "exclude")}
    last = 0.0

    def progress(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.1 or done == total:
            last = now
            emit({"type": "progress", "done": done, "total": total, "unit": "files", "name": name})

    report = sync_index(Job(folder=Path(folder), **globs, **given), paths, progress=progress)
    return dataclasses.asdict(report)


def watch(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Sync, then again at every change of the folder, until the caller closes the stream."""
    from recipes.rag.watch import Watcher

    folder = resolve_data(str(params["folder"]), paths).path
    with Watcher(Path(folder), float(params.pop("sweep", 60.0))) as watcher:
        emit({"type": "phase", "name": "watching", "notified": watcher.notified})
        while True:
            report = sync(params, emit, paths)
            changed = sum(report[n] for n in ("added", "changed", "removed", "renamed"))
            emit({"type": "synced", "changed": changed, "report": report})
            watcher.wait()


def search(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """The best chunks. Params: index, query, k, path, tags, since, until, settings."""
    del emit
    retriever = pipelines(paths).get(str(params["index"]))
    found = retriever.search(
        str(params["query"]),
        int(params.get("k") or 10),
        _filters(params),
        _settings(params),
        explain=True,
    )
    return dataclasses.asdict(found)


@cache
def _loaded(name: str, paths: StatePaths) -> LocalModel:
    """Answering models stay loaded, with the prefix cache of their last prompt."""
    return LocalModel.of(resolve_model(name, paths), paths)


def _model(params: dict[str, Any], emit: Emit, paths: StatePaths) -> AnswerModel:
    """Who answers: a deployment of that name, else a model in this process."""
    name = str(params.get("model") or "")
    if not name:
        return _loaded(ANSWER_MODEL, paths)

    def phase(text: str) -> None:
        emit({"type": "phase", "name": text})

    return deployment(name, paths, phase) or _loaded(name, paths)


@cache
def _conversation(key: str) -> Conversation:
    """The memory of a conversation lives as long as this process."""
    del key
    return Conversation()


def ask(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Answer a question. Params: index, question, model, k, budget, conversation, filters."""
    retriever = pipelines(paths).get(str(params["index"]))
    model = _model(params, emit, paths)
    options = AskOptions(
        k=int(params.get("k") or 8),
        budget=int(params.get("budget") or 800),
        filters=_filters(params),
        settings=_settings(params),
    )
    key = str(params.get("conversation") or "")
    talk = _conversation(f"{params['index']}\0{key}") if key else Conversation()
    answer = Asker(retriever, model).ask(str(params["question"]), options, talk, emit)
    return dataclasses.asdict(answer)


def inspect(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Look inside. Params: index, and file (its chunks) or query (every candidate's scores)."""
    from recipes.rag.inspection import inspect_file, inspect_index, inspect_query

    retriever = pipelines(paths).get(str(params["index"]))
    if params.get("file"):
        return inspect_file(retriever, str(params["file"]))
    if params.get("query"):
        model = _model(params, emit, paths)
        budget, limit = int(params.get("budget") or 800), int(params.get("k") or 8)
        filters, settings = _filters(params), _settings(params)
        return inspect_query(
            retriever, str(params["query"]), model, limit, budget, filters, settings
        )
    return inspect_index(retriever)


def evaluate(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Measure. Params: index, queries (a folder), configurations (name -> settings), documents.

    Where ``index`` does not exist and ``queries`` holds documents, it is made first.
    """
    from recipes.rag import evaluate as measuring
    from recipes.rag.store import index_names

    folder = Path(str(params["queries"])).expanduser()
    queries = measuring.read_queries(folder)
    name = str(params.get("index") or "")
    if not name:
        name = "eval-" + re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower())
        if name not in index_names(paths) or is_collection(folder):
            sync({"folder": str(folder), "index": name}, emit, paths)
    retriever = pipelines(paths).get(name)
    configurations = params.get("configurations") or {"hybrid": {}}

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            emit({"type": "progress", "done": done, "total": total, "unit": "queries", "name": ""})

    runs = [
        measuring.evaluate(
            retriever, queries, _settings({"settings": given}), name=label, progress=progress
        )
        for label, given in configurations.items()
    ]
    comparisons = [measuring.compare(runs[0], other) for other in runs[1:]]
    return {"evaluations": [dataclasses.asdict(r) for r in runs], "comparisons": comparisons}
