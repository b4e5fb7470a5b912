"""What every group of routes is given, and the few words they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from engine.api import Workbench
from modelops_tui.gateway.access import Gate

if TYPE_CHECKING:
    from modelops_tui.gateway.routing import Router

#: Names as the registry, the datasets, the indexes and the deployments allow them: no path can
#: be written with these characters.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
#: ``name``, ``name@stage``, ``name@version``, ``sha256:<hex>``.
REF = r"^[A-Za-z0-9][A-Za-z0-9._@:+-]*$"

Name = Annotated[str, Path(max_length=128, pattern=NAME, examples=["support-bot"])]
Ref = Annotated[str, Path(max_length=300, pattern=REF, examples=["support-bot@prod"])]
#: The id, or the number it begins with.
JobId = Annotated[
    str, Path(max_length=32, pattern=r"^([0-9]{6,}-[0-9a-z]{4}|[1-9][0-9]{0,8})$", examples=["1"])
]
#: JSON has one kind of number: 3.0 is as whole as 3. It stands behind the bounds of an ``int``: in
#: front of them they are checked but missing from the JSON schema.
WHOLE = BeforeValidator(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v)
Row = dict[Annotated[str, Field(min_length=1, max_length=500)], Any]
Limit = Annotated[int, Query(ge=1, le=500)]
Offset = Annotated[int, Query(ge=0, le=1 << 40)]
Text = Annotated[str, Query(max_length=200)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class GatewaySettings:
    """Limits of a gateway."""

    max_body: int = 8 << 20
    requests_per_minute: int = 600
    """Per token; 0: no limit."""
    stream_s: float = 3600.0
    """A stream of events ends after so long; clients go on from its last ``id``."""
    start_engine: bool = True
    """Start the engine where none runs when a job or a deployment is accepted, or asked for."""
    wait_s: float = 120.0
    """How long a request waits for a deployment that starts, wakes or restarts."""


@dataclass(frozen=True)
class Place:
    """One gateway: the workbench behind it and who guards it."""

    bench: Workbench
    gate: Gate
    router: Router
    settings: GatewaySettings


class Given(BaseModel):
    """A request body: nothing beside its keys, and no value turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorDetail(BaseModel):
    """What went wrong, in the OpenAI shape."""

    model_config = ConfigDict(extra="allow")
    message: str
    type: str
    param: str | None
    code: int | str | None


class ErrorDocument(BaseModel):
    """The body of every refusal."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "there is no job '7'",
                        "type": "not_found",
                        "param": None,
                        "code": "not_found",
                    }
                }
            ]
        }
    )
    error: ErrorDetail


_WHY = {
    400: "The body is not JSON, or not what this takes.",
    401: "No valid token.",
    403: "The token's scopes do not allow it, or a policy says no.",
    404: "There is none of that name.",
    409: "It can't be done in this state, or bytes are not what was signed.",
    413: "The request is larger than this gateway takes.",
    422: "A value is refused; the message says which and why.",
    429: "Too many requests: try again after `Retry-After` seconds.",
    500: "Something unforeseen; the gateway's log has it.",
    501: "A part this needs is not installed here.",
    502: "The model's server, or the index, ended without an answer.",
    503: "The engine or the deployment can't answer now.",
    507: "The disk is too full.",
}
#: The refusals every guarded route may answer with.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": why,
        # said in full: a route that answers with text refuses with JSON all the same
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorDocument"}}},
    }
    for status, why in _WHY.items()
}


def group(tag: str) -> APIRouter:
    """A router for one subject."""
    return APIRouter(tags=[tag], responses=REFUSALS)


def openapi_of(
    app: FastAPI, paths: dict[str, Any], schemas: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """What ``app.openapi`` shall be: also ``paths`` and ``schemas`` that FastAPI knows nothing of,
    the schema of errors once, and tuples as every client reads them.

    ``prefixItems`` (how pydantic writes a tuple) is right and known to few; a tuple of this API is
    an array of a fixed length.
    """
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            document = FastAPI.openapi(app)
            whole = ErrorDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = {**schemas, **whole.pop("$defs"), "ErrorDocument": whole}
            document["components"]["schemas"].update(parts)
            document["paths"].update(paths)
            _plain_tuples(document)
            made.update(document)
        return made

    return openapi


def _plain_tuples(node: Any) -> None:
    if isinstance(node, dict):
        if "prefixItems" in node:
            kinds = [kind for n, kind in enumerate(node["prefixItems"])
                     if kind not in node["prefixItems"][:n]]  # fmt: skip
            del node["prefixItems"]
            node["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        for value in node.values():
            _plain_tuples(value)
    elif isinstance(node, list):
        for value in node:
            _plain_tuples(value)


def body(*examples: dict[str, Any]) -> ConfigDict:
    """The configuration of a request body with examples."""
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": list(examples)})


def plain(value: Any) -> Any:
    """A view as JSON values; a number that JSON can't write is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)
