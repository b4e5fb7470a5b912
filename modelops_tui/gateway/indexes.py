"""``/api/indexes``: search documents, look into them, and answer with checked citations."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field

from engine.errors import ModelOpsError
from engine.types.rag import Answer, FileView, IndexView, Retrieval
from modelops_tui.gateway.errors import document_of
from modelops_tui.gateway.events import SSE, event
from modelops_tui.gateway.place import WHOLE, Given, Name, Place, body, group, plain
from modelops_tui.sdk.workstation import in_thread


def _day(text: str) -> str:
    """ISO dates in full: ``date.fromisoformat`` alone takes more."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("a day is written 2026-01-31")
    return date.fromisoformat(text).isoformat()


Day = Annotated[str, AfterValidator(_day), Field(json_schema_extra={"format": "date"})]


class Narrowed(Given):
    """Which documents count (applied before the search), and how they are searched."""

    path: Annotated[str, Field(max_length=1000)] = ""
    """A glob over the path in the folder."""
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(max_length=32, default_factory=list),
    ]
    """Every one of them must be on the document."""
    since: Day | None = None
    """Documents of this day or later."""
    until: Day | None = None
    """Documents of this day or earlier."""
    mode: Literal["hybrid", "bm25", "dense", "rrf"] = "hybrid"

    def options(self) -> dict[str, Any]:
        """As ``engine.api.Rag`` takes them."""
        return {
            "path": self.path,
            "tags": self.tags,
            "since": self.since or "",
            "until": self.until or "",
            "settings": {"mode": self.mode},
        }


class Search(Narrowed):
    """A search of an index."""

    model_config = body({"query": "How do I resume a job?", "k": 3})
    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    k: Annotated[int, Field(ge=1, le=200), WHOLE] = 5


class Exchange(Given):
    """An earlier question and its answer."""

    question: Annotated[str, Field(max_length=10_000)]
    answer: Annotated[str, Field(max_length=100_000)]


class Question(Narrowed):
    """A question to an index."""

    model_config = body({"question": "How do I resume a job?", "stream": False})
    question: Annotated[str, Field(min_length=1, max_length=10_000)]
    model: Annotated[str, Field(max_length=300)] = ""
    """A deployment or a model that answers; empty: the packaged one."""
    k: Annotated[int, Field(ge=0, le=50), WHOLE] = 0
    """At most so many chunks compete for a place in the prompt; 0: the default."""
    budget: Annotated[int, Field(ge=64, le=1 << 20), WHOLE] = 800
    """Tokens of sources in the prompt."""
    history: Annotated[list[Exchange], Field(max_length=100, default_factory=list)]
    """The conversation so far, oldest first."""
    stream: bool = False
    """Server-sent events (`sources`, `token`, then `result`) instead of one document."""


class Inspection(Narrowed):
    """What to look into: the chunks of `file`, every candidate of `query`, or the table."""

    model_config = body({"file": "jobs.md"}, {"query": "How do I resume a job?", "k": 3})
    file: Annotated[str, Field(max_length=1000)] = ""
    query: Annotated[str, Field(max_length=10_000)] = ""
    model: Annotated[str, Field(max_length=300)] = ""
    """Whose prompt and tokens; empty: the packaged model's."""
    k: Annotated[int, Field(ge=1, le=50), WHOLE] = 8
    budget: Annotated[int, Field(ge=64, le=1 << 20), WHOLE] = 800


def routes(place: Place) -> APIRouter:
    """Everything about document indexes."""
    router, rag, gate = group("rag"), place.bench.rag, place.gate
    read = [gate.needs("read")]

    @router.get("/api/indexes", dependencies=read)
    def list_indexes() -> list[IndexView]:
        """Every document index."""
        return list(rag.list())

    @router.get("/api/indexes/{name}", dependencies=read)
    def show(name: Name) -> IndexView:
        """One index."""
        return rag.show(name)

    @router.get("/api/indexes/{name}/files", dependencies=read)
    def files(name: Name) -> list[FileView]:
        """Its files, with the reason where one could not be read."""
        return list(rag.files(name))

    @router.post("/api/indexes/{name}/search", dependencies=read)
    def search(name: Name, body: Search) -> Retrieval:
        """The best chunks of an index for a query, with every score."""
        rag.show(name)
        value: Retrieval = plain(rag.search(name, body.query, body.k, **body.options()))
        return value

    @router.post("/api/indexes/{name}/inspect", dependencies=read)
    def inspect(name: Name, body: Inspection) -> dict[str, Any]:
        """Chunks with offsets and words, or every score of every candidate and the exact prompt."""
        rag.show(name)
        given = {"file": body.file, "query": body.query, "model": body.model, "k": body.k}
        value: dict[str, Any] = plain(
            rag.inspect(name, **given, budget=body.budget, **body.options())
        )
        return value

    @router.delete("/api/indexes/{name}", status_code=204, dependencies=[gate.needs("admin")])
    def remove(name: Name) -> None:
        """Delete an index; signed artifacts of it stay in the registry."""
        rag.show(name)
        rag.remove(name)

    @router.post(
        "/api/indexes/{name}/ask",
        response_model=Answer,
        responses=SSE,
        dependencies=read,
    )
    async def ask(name: Name, body: Question) -> Any:
        """Answer from the documents, with citations that were checked against their sources."""
        rag.show(name)
        options: dict[str, Any] = {
            **body.options(),
            "model": body.model,
            "k": body.k or None,
            "budget": body.budget,
            "history": [(turn.question, turn.answer) for turn in body.history],
        }
        events = in_thread(lambda: rag.ask(name, body.question, **options))
        if body.stream:
            return _stream(events)
        found: Any = None
        async for item in events:
            found = item.get("result", found)
        return plain(found)

    return router


def _stream(events: AsyncIterator[dict[str, Any]]) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        try:
            async for item in events:
                name = "result" if "result" in item else str(item.get("type", "event"))
                yield event(item.get("result", item), name=name)
        except ModelOpsError as error:
            yield event(document_of(error), name="error")

    return StreamingResponse(parts(), media_type="text/event-stream")
