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
from engine.errors import BadInput, NotFound
from engine.models import resolve_model
from engine.paths import StatePaths
from recipes.rag.answer import Asker, AskOptions, Conversation, Turn, user_message
from recipes.rag.deployed import deployment
from recipes.rag.folder import is_collection
from recipes.rag.model import AnswerModel, LocalModel
from recipes.rag.pipeline import Job, Pipelines, remembered, sync_index
from recipes.rag.retrieve import MODES, Filters, Settings
from recipes.rag.store import named_index

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
    known = {f.name: f.default for f in dataclasses.fields(Settings)}
    given = dict(params.get("settings") or {})
    for name, value in given.items():
        if name not in known:
            raise BadInput(f"unknown setting {name!r}", why=f"known: {', '.join(known)}")
        wanted = type(known[name])
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise BadInput(f"{name} can't be {value!r}", why=f"it is a {wanted.__name__}")
    settings = Settings(**given)
    if settings.mode not in MODES:
        raise BadInput(f"{settings.mode!r} is no way to search", why=f"known: {', '.join(MODES)}")
    if not 0 <= settings.weight <= 1 or settings.candidates < 1 or settings.rerank < 1:
        raise BadInput(
            "a setting is out of its range", why="weight: 0 to 1; candidates, rerank: 1 or more"
        )
    return settings


def _job(params: dict[str, Any], paths: StatePaths) -> Job:
    """What is not given is as the index was synced before, where that was the same folder."""
    given = {name: value for name, value in params.items() if value is not None}
    given |= {name: tuple(given[name]) for name in ("include", "exclude") if name in given}
    name, place = str(given["index"]), str(given.pop("folder"))
    known = remembered(name, paths)
    before = known.pop("folder", "")
    try:
        folder = Path(resolve_data(place, paths).path)
    except NotFound:
        if place != name or not before:
            raise
        folder = Path(before)  # the index was named in place of its folder
    return Job(folder=folder, **({**known, **given} if str(folder) == before else given))


def sync(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Bring an index up to date outside of a job. Params: those of ``pipeline.Job``."""
    job = _job(params, paths)
    last = 0.0

    def progress(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.1 or done == total:
            last = now
            emit({"type": "progress", "done": done, "total": total, "unit": "files", "name": name})

    report = sync_index(job, paths, progress=progress)
    return dataclasses.asdict(report)


def remove(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Delete an index. Params: index."""
    del emit
    return named_index(str(params["index"]), paths).remove()


def publish(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Sign what an index answers from. Params: index."""
    from engine.registry import Registry
    from recipes.rag.run import publish_index

    del emit
    index = named_index(str(params["index"]), paths)
    if index.current is None:
        raise NotFound(f"there is no index {index.name!r}", hint="modelops-tui rag list")
    return publish_index(Registry.open(paths), index, name=index.name)


def watch(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Sync, then again at every change of the folder, until the caller closes the stream."""
    from recipes.rag.watch import Watcher

    sweep = float(params.pop("sweep", 60.0))
    with Watcher(_job(params, paths).folder, sweep) as watcher:
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


def _told(history: Any) -> Conversation:
    """A conversation as its caller remembers it: ``[[question, answer], ...]``, oldest first."""
    turns = [
        Turn(str(question), user_message(str(question), ()), str(reply))
        for question, reply in history or ()
    ]
    return Conversation(turns)


def ask(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Answer. Params: index, question, model, k, budget, conversation or history, filters."""
    retriever = pipelines(paths).get(str(params["index"]))
    model = _model(params, emit, paths)
    options = AskOptions(
        k=int(params.get("k") or 8),
        budget=int(params.get("budget") or 800),
        filters=_filters(params),
        settings=_settings(params),
    )
    key = str(params.get("conversation") or "")
    talk = _conversation(f"{params['index']}\0{key}") if key else _told(params.get("history"))
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


def questions(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Let a model make up questions. Params: index, folder, count, seed, model, force."""
    from recipes.rag.questions import generate

    retriever = pipelines(paths).get(str(params["index"]))
    model = _model(params, emit, paths)

    def progress(done: int, total: int) -> None:
        emit({"type": "progress", "done": done, "total": total, "unit": "questions", "name": ""})

    return generate(
        retriever,
        model,
        Path(str(params["folder"])),
        count=int(params.get("count") or 50),
        seed=int(params.get("seed") or 0),
        force=bool(params.get("force")),
        progress=progress,
    )


def evaluate(params: dict[str, Any], emit: Emit, paths: StatePaths) -> Any:
    """Measure. Params: index, queries (a folder), configurations (name -> settings), documents.

    Where ``index`` does not exist and ``queries`` holds documents, it is made first. Real and
    generated questions of a mixed set are measured and compared apart.
    """
    from recipes.rag import evaluate as measuring

    folder = Path(str(params["queries"])).expanduser()
    queries = measuring.read_queries(folder)
    name = str(params.get("index") or "")
    if not name and not is_collection(folder):
        raise BadInput(f"{folder} holds questions only", hint="name what to search: --index NAME")
    if not name:
        name = "eval-" + re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower())
        sync({"folder": str(folder), "index": name}, emit, paths)
    retriever = pipelines(paths).get(name)
    configurations = params.get("configurations") or {"hybrid": {}}

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            emit({"type": "progress", "done": done, "total": total, "unit": "queries", "name": ""})

    runs, comparisons = [], []
    for part in queries.apart().values():
        if not part.judged():
            continue
        measured = [
            measuring.evaluate(
                retriever, part, _settings({"settings": given}), name=label, progress=progress
            )
            for label, given in configurations.items()
        ]
        runs += measured
        comparisons += [
            {**measuring.compare(measured[0], other), "questions": other.questions}
            for other in measured[1:]
        ]
    if not runs:
        raise BadInput("no query has a relevant document", why="the ids of qrels fit none")
    return {"evaluations": [dataclasses.asdict(r) for r in runs], "comparisons": comparisons}
