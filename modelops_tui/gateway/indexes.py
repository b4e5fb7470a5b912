"""``/api/indexes``: search documents, and answer from them with checked citations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from engine.errors import ModelOpsError
from engine.types.rag import Answer, FileView, IndexView, Retrieval
from modelops_tui.gateway.errors import document_of
from modelops_tui.gateway.events import SSE, event
from modelops_tui.gateway.place import WHOLE, Given, Name, Place, body, group, plain
from modelops_tui.sdk.workstation import in_thread


class Search(Given):
    """A search of an index."""

    model_config = body({"query": "How do I resume a job?", "k": 3})
    query: Annotated[str, Field(min_length=1, max_length=10_000)]
    k: Annotated[int, Field(ge=1, le=200), WHOLE] = 5


class Question(Given):
    """A question to an index."""

    model_config = body({"question": "How do I resume a job?", "stream": False})
    question: Annotated[str, Field(min_length=1, max_length=10_000)]
    model: Annotated[str, Field(max_length=300)] = ""
    """A deployment or a model that answers; empty: the packaged one."""
    k: Annotated[int, Field(ge=0, le=50), WHOLE] = 0
    """At most so many chunks compete for a place in the prompt; 0: the default."""
    stream: bool = False
    """Server-sent events (`sources`, `token`, then `result`) instead of one document."""


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
        value: Retrieval = plain(rag.search(name, body.query, body.k))
        return value

    @router.post(
        "/api/indexes/{name}/ask",
        response_model=Answer,
        responses=SSE,
        dependencies=read,
    )
    async def ask(name: Name, body: Question) -> Any:
        """Answer from the documents, with citations that were checked against their sources."""
        rag.show(name)
        options: dict[str, Any] = {"model": body.model} if body.model else {}
        if body.k:
            options["k"] = body.k
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
