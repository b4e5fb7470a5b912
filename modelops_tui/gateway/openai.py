"""The OpenAI-compatible front: model names are deployments (woken when asleep) or ``rag:INDEX``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import Route

from engine.serving.messages import (
    HttpError,
    Receive,
    Scope,
    Send,
    bearer,
    json_object,
    read_body,
)
from modelops_tui.gateway.events import SSE
from modelops_tui.gateway.place import REFUSALS, Place, group
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


BODIES: dict[str, type[_OpenAI]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/embeddings": Embedding,
}
_ANSWER = {
    "description": "As in the OpenAI API; with `stream`, server-sent events.",
    "content": {"application/json": {"schema": {"type": "object"}}, **SSE[200]["content"]},
}


def routes(place: Place) -> APIRouter:
    """The model list; what is asked of models is in :func:`endpoints`."""
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

    return router


class Endpoint:
    """One OpenAI path as a bare ASGI app: what FastAPI would do for it costs half a millisecond.

    Args:
        place: the gateway.
        path: one of :data:`BODIES`.
    """

    def __init__(self, place: Place, path: str) -> None:
        self._place = place
        self._path = path
        self._shape = BODIES[path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, check, and relay the bytes as they came.

        Raises:
            ModelOpsError: a refusal; the app's handlers write it.
        """
        self._place.gate.admit(bearer(scope), "read")
        raw = await read_body(scope, receive, self._place.settings.max_body)
        document = json_object(raw)
        try:
            wanted = self._shape.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise HttpError(400, f"{where}: {first['msg']}") from error
        model = str(document["model"])
        answer: Response
        if model.startswith(RAG) and isinstance(wanted, Chat):
            answer = await rag_answer(self._place.bench, document)
        else:
            record = self._place.router.deployment(model)
            answer = RelayResponse(self._place.router, record, self._path, raw)
        await answer(scope, receive, send)


def endpoints(place: Place) -> list[Route]:
    """The routes of what is asked of models."""
    return [Route(path, Endpoint(place, path), methods=["POST"]) for path in BODIES]


def described() -> dict[str, Any]:
    """Their part of the OpenAPI document: path -> operations."""
    refusals = {str(status): value for status, value in REFUSALS.items()}
    return {
        path: {
            "post": {
                "tags": ["openai"],
                "summary": str(shape.__doc__).partition("\n")[0],
                "description": "As in the OpenAI API; `model` is a deployment, one of its adapters,"
                " or (chat) `rag:INDEX`.",
                "operationId": path.strip("/").replace("/", "_"),
                "security": [{"HTTPBearer": []}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": f"#/components/schemas/{shape.__name__}"}
                        }
                    },
                },
                "responses": {"200": _ANSWER, **refusals},
            }
        }
        for path, shape in BODIES.items()
    }


def schemas() -> dict[str, Any]:
    """The schemas :func:`described` refers to."""
    found: dict[str, Any] = {}
    for shape in BODIES.values():
        schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        found[shape.__name__] = schema
    return found
