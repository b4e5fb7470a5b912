"""The OpenAI-compatible front: model names are deployments (woken when asleep) or ``rag:INDEX``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.serving.messages import HttpError, json_object
from modelops_tui.gateway.events import SSE
from modelops_tui.gateway.place import Place, group
from modelops_tui.gateway.ragchat import rag_answer
from modelops_tui.gateway.routing import RAG, RelayResponse

Model = Annotated[str, Field(min_length=1, max_length=200)]


class _OpenAI(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Turn(_OpenAI):
    """One turn of a conversation."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class Chat(_OpenAI):
    """A conversation to go on with. Every key of the OpenAI API is passed to the model's server."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "support-bot",
                    "messages": [{"role": "user", "content": "Where is my parcel?"}],
                    "max_tokens": 16,
                },
                {
                    "model": "rag:handbook",
                    "messages": [{"role": "user", "content": "How do I resume a job?"}],
                    "stream": True,
                },
            ]
        },
    )
    model: Model
    messages: Annotated[list[Turn], Field(min_length=1)]
    stream: bool | None = None


class Completion(_OpenAI):
    """A text to go on with."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "support-bot", "prompt": "Once upon a time", "max_tokens": 16}]
        },
    )
    model: Model
    prompt: str | list[str]
    stream: bool | None = None


class Embedding(_OpenAI):
    """Texts to embed."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={"examples": [{"model": "embedder", "input": ["one text", "another"]}]},
    )
    model: Model
    input: str | list[str] | list[int] | list[list[int]]


class ModelEntry(BaseModel):
    """A name that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """Every such name."""

    object: Literal["list"]
    data: list[ModelEntry]


_BODIES: dict[str, type[_OpenAI]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/embeddings": Embedding,
}
_ANSWER = {
    200: {
        "description": "As in the OpenAI API; with `stream`, server-sent events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            **SSE[200]["content"],
        },
    }
}


def routes(place: Place) -> APIRouter:
    """The OpenAI paths."""
    router, read = group("openai"), [place.gate.needs("read")]

    @router.get("/v1/models", dependencies=read)
    def models() -> ModelList:
        """Deployments, their adapters, and indexes (`rag:NAME`)."""
        return ModelList(object="list", data=[ModelEntry(**m) for m in place.router.models()])

    @router.get("/v1/models/{model}", dependencies=read)
    def model(model: str) -> ModelEntry:
        """One of them."""
        for entry in place.router.models():
            if entry["id"] == model:
                return ModelEntry(**entry)
        raise HttpError(404, f"the model {model!r} does not exist")

    for path in _BODIES:
        _relay(router, place, path)
    return router


def _relay(router: APIRouter, place: Place, path: str) -> None:
    shape = _BODIES[path]

    @router.post(
        path,
        name=path.removeprefix("/v1/").replace("/", "_"),
        response_class=JSONResponse,
        responses=_ANSWER,
        dependencies=[place.gate.needs("read")],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": shape.model_json_schema()}},
            }
        },
    )
    async def answer(request: Request) -> Response:
        """As in the OpenAI API; `model` is a deployment, one of its adapters, or `rag:INDEX`."""
        # the bytes go on as they came: parsed once to be checked, never written anew
        raw = await request.body()
        document = json_object(raw)
        try:
            wanted = shape.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise HttpError(400, f"{where}: {first['msg']}") from error
        model = str(document["model"])
        if model.startswith(RAG) and isinstance(wanted, Chat):
            return await rag_answer(place.bench, document)
        return RelayResponse(place.router, place.router.deployment(model), path, raw)


__all__ = ["routes"]
