"""Every refusal in one shape: ``{"error": {"message", "type", "param", "code", ...}}``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from engine.errors import ModelOpsError, RecipeInvalid
from engine.serving.messages import HttpError, error_document
from modelops_tui.gateway.place import plain

_STATUS = {
    "not_found": 404,
    "conflict": 409,
    "refused": 403,
    "integrity": 409,
    "bad_input": 422,
    "recipe_invalid": 422,
    "engine_unavailable": 503,
    "out_of_space": 507,
    "does_not_fit": 409,
    "missing_part": 501,
    "step_failed": 409,
    "store_busy": 503,
    "server_died": 502,
}


def document_of(error: ModelOpsError) -> dict[str, Any]:
    """A known error as a body."""
    document = error_document(str(error), error.code, error.code)
    document["error"]["hint"] = error.hint
    if isinstance(error, RecipeInvalid):
        document["error"]["diagnostics"] = plain(list(error.diagnostics))
    return document


def status_of(error: ModelOpsError) -> int:
    """Its HTTP status."""
    if isinstance(error, HttpError):
        return error.status
    # the nearest class that has one: a special case is refused like what it is a case of
    codes = [error.code, *(getattr(base, "code", "") for base in type(error).__mro__)]
    return next((_STATUS[code] for code in codes if code in _STATUS), 500)


def handle_errors(app: FastAPI) -> None:
    """Teach ``app`` the shape."""

    @app.exception_handler(HttpError)
    async def http_error(_request: Request, error: HttpError) -> Response:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Response(error.body(), error.status, headers, "application/json")

    @app.exception_handler(ModelOpsError)
    async def known(_request: Request, error: ModelOpsError) -> Response:
        return JSONResponse(document_of(error), status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse(error_document(f"{where}: {first['msg']}", "bad_input", 422), 422)

    @app.exception_handler(Exception)
    async def unforeseen(_request: Request, _error: Exception) -> Response:
        # the traceback goes to the gateway's log, never to a stranger
        said = "something went wrong in the gateway; its log says what"
        return JSONResponse(error_document(said, "server_error", 500), 500)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        document = error_document(str(error.detail), "invalid_request_error", error.status_code)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(request))
        return JSONResponse(document, error.status_code, headers)


def _allowed(request: Request) -> list[str]:
    """The methods of every route of this path; Starlette names those of the first only."""
    methods: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods)
