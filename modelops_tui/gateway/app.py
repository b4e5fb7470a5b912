"""The FastAPI application over ``engine.api``: every route names the scope it asks for."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from engine.api import Workbench
from engine.errors import ModelOpsError, RecipeInvalid
from engine.serving.messages import HttpError, error_document, sse
from engine.types.jobs import ENDED_STATES, JobState
from engine.types.serving import TokenView
from modelops_tui import __version__
from modelops_tui.gateway.limits import Limits
from modelops_tui.gateway.openai import RelayResponse, Router, is_rag, rag_answer
from modelops_tui.gateway.tokens import Tokens, allows

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
}
_bearer = HTTPBearer(auto_error=False, description="A token of `modelops-tui gateway token add`.")


@dataclass(frozen=True)
class GatewaySettings:
    """Limits of a gateway."""

    max_body: int = 8 << 20
    requests_per_minute: int = 600
    """Per token; 0: no limit."""


class Submission(BaseModel):
    """A recipe to run."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"recipe": 'kind = "finetune"\n...', "sets": ["train.lr=1e-4"]}]
        },
    )
    recipe: str
    sets: list[str] = []
    priority: int = 0


class Promotion(BaseModel):
    """A stage to move."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"ref": "support-bot@3", "stage": "staging"}]},
    )
    ref: str
    stage: str
    note: str = ""


class NewDeployment(BaseModel):
    """A deployment to start."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "support-bot@prod"}]}
    )
    model: str
    name: str = ""
    backend: str = "llama.cpp"
    memory: str = "auto"
    context: int = 2048
    idle_minutes: float = 0.0


class Question(BaseModel):
    """A search of an index."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "How do I resume a job?"}]}
    )
    query: str
    k: int = 5


def plain(value: Any) -> Any:
    """A view as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def create_app(bench: Workbench, settings: GatewaySettings | None = None) -> FastAPI:
    """The gateway of one state directory."""
    settings = settings or GatewaySettings()
    app = FastAPI(
        title="ModelOps TUI gateway",
        version=__version__,
        description="The workbench over HTTP, and one OpenAI-compatible address for every model.",
        responses={
            401: {"description": "No valid token."},
            403: {"description": "The token's scopes do not allow it, or a policy says no."},
        },
    )
    gate = _Gate(Tokens(bench.paths), settings)
    router = Router(bench)
    app.state.router = router
    _errors(app)
    _health(app, router, gate)
    _jobs(app, bench, gate)
    _models(app, bench, gate)
    _deployments(app, bench, gate)
    _openai(app, bench, router, gate)
    app.add_middleware(Limits, max_body=settings.max_body)
    return app


class _Gate:
    """Who comes in: tokens, scopes and rates."""

    def __init__(self, tokens: Tokens, settings: GatewaySettings) -> None:
        self._tokens = tokens
        self._limit = settings.requests_per_minute
        self._seen: dict[str, deque[float]] = {}

    def needs(self, scope: str) -> Any:
        """A dependency that lets in tokens with ``scope``."""

        def check(
            given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        ) -> TokenView:
            token = self._tokens.find(given.credentials) if given is not None else None
            if token is None:
                raise HttpError(401, "the token is missing, wrong or over", "authentication_error")
            if not allows(token, scope):
                raise HttpError(
                    403, f"this needs a token with the scope {scope!r}", "permission_error"
                )
            self._count(token)
            return token

        return Depends(check)

    def _count(self, token: TokenView) -> None:
        if not self._limit:
            return
        now = time.monotonic()
        seen = self._seen.setdefault(token.id, deque())
        while seen and seen[0] < now - 60:
            seen.popleft()
        if len(seen) >= self._limit:
            wait = max(1, int(seen[0] + 60 - now) + 1)
            raise HttpError(429, "too many requests this minute", "rate_limit_error", wait)
        seen.append(now)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(HttpError)
    async def http_error(_request: Request, error: HttpError) -> Response:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Response(error.body(), error.status, headers, "application/json")

    @app.exception_handler(ModelOpsError)
    async def known(_request: Request, error: ModelOpsError) -> Response:
        document = error_document(str(error), error.code, error.code)
        document["error"]["hint"] = error.hint
        if isinstance(error, RecipeInvalid):
            document["error"]["diagnostics"] = plain(list(error.diagnostics))
        return JSONResponse(document, _STATUS.get(error.code, 500))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse(error_document(f"{where}: {first['msg']}", "bad_input", 422), 422)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        document = error_document(str(error.detail), "invalid_request_error", error.status_code)
        return JSONResponse(document, error.status_code, error.headers)


def _health(app: FastAPI, router: Router, gate: _Gate) -> None:
    @app.get("/health", tags=["gateway"])
    async def health() -> dict[str, str]:
        """Whether the gateway answers."""
        return {"status": "ok", "version": __version__}

    @app.get(
        "/metrics",
        tags=["gateway"],
        response_class=PlainTextResponse,
        dependencies=[gate.needs("read")],
    )
    async def metrics() -> str:
        """Figures in Prometheus's text format."""
        figures = router.figures
        rows = {
            "requests_total": figures.requests,
            "failed_requests_total": figures.failed,
            "tokens_total": figures.tokens,
        }
        lines = []
        for name, value in rows.items():
            lines += [f"# TYPE modelops_gateway_{name} counter", f"modelops_gateway_{name} {value}"]
        lines += ["# TYPE modelops_gateway_active_requests gauge"]
        return "\n".join([*lines, f"modelops_gateway_active_requests {figures.active}", ""])


Id = Annotated[str, Path(min_length=1, max_length=200, examples=["000017-k3f9"])]
Limit = Annotated[int, Query(ge=1, le=500)]


def _jobs(app: FastAPI, bench: Workbench, gate: _Gate) -> None:
    @app.get("/api/jobs", tags=["jobs"], dependencies=[gate.needs("read")])
    def list_jobs(
        state: Annotated[list[JobState] | None, Query()] = None,
        text: str = "",
        limit: Limit = 100,
    ) -> Any:
        """The newest jobs."""
        return plain(bench.jobs.list(state, text, limit))

    @app.post("/api/jobs", tags=["jobs"], status_code=201, dependencies=[gate.needs("run")])
    def submit(body: Submission) -> Any:
        """Run a recipe (its TOML text). When this answers, the job survives a power cut."""
        plan = bench.recipes.prepare(body.recipe, body.sets)
        job = bench.jobs.submit(plan, body.priority)
        bench.system.ensure_engine()
        return plain(job)

    @app.get("/api/jobs/{job}", tags=["jobs"], dependencies=[gate.needs("read")])
    def get_job(job: Id) -> Any:
        """One job with its steps."""
        return {**plain(bench.jobs.get(job)), "steps": plain(bench.jobs.steps(job))}

    for name in ("cancel", "pause", "resume", "retry"):
        _job_action(app, bench, gate, name)

    @app.get("/api/jobs/{job}/events", tags=["jobs"], dependencies=[gate.needs("read")])
    async def events(job: Id, offset: Annotated[int, Query(ge=0)] = 0) -> Response:
        """The job's events as server-sent events, from a byte offset until it is over."""
        await asyncio.to_thread(bench.jobs.get, job)
        return StreamingResponse(_events(bench, job, offset), media_type="text/event-stream")


def _job_action(app: FastAPI, bench: Workbench, gate: _Gate, name: str) -> None:
    @app.post(
        f"/api/jobs/{{job}}/{name}", tags=["jobs"], name=name, dependencies=[gate.needs("run")]
    )
    def act(job: Id) -> Any:
        return plain(getattr(bench.jobs, name)(job))


async def _events(bench: Workbench, job: str, offset: int) -> AsyncIterator[bytes]:
    quiet = 0.0
    while True:
        over = (await asyncio.to_thread(bench.jobs.get, job)).state in ENDED_STATES
        page = await asyncio.to_thread(bench.jobs.events, job, offset)
        for event in page.events:
            yield sse(event)
        moved, offset = page.next_offset != offset, page.next_offset
        if over and not moved:
            yield b"event: end\ndata: {}\n\n"
            return
        quiet = 0.0 if moved else quiet + 0.25
        if quiet >= 15:
            # a comment: proxies and clients see that the line lives
            yield b": still here\n\n"
            quiet = 0.0
        if not moved:
            await asyncio.sleep(0.25)


def _models(app: FastAPI, bench: Workbench, gate: _Gate) -> None:
    def get(path: str, tag: str, call: Callable[[], Any], text: str) -> None:
        @app.get(path, tags=[tag], description=text, name=path, dependencies=[gate.needs("read")])
        def answer() -> Any:
            return plain(call())

    get("/api/datasets", "data", lambda: bench.data.list(), "Every dataset.")
    get("/api/indexes", "rag", lambda: bench.rag.list(), "Every document index.")
    get("/api/stages", "registry", lambda: bench.artifacts.stages(), "The ladder of stages.")
    get("/api/recipes", "recipes", lambda: bench.recipes.library(), "The library of recipes.")
    get("/api/artifacts", "registry", lambda: bench.artifacts.list(), "Every artifact.")
    get("/api/engine", "system", lambda: bench.system.engine_status(), "The engine.")

    @app.get("/api/artifacts/{ref}", tags=["registry"], dependencies=[gate.needs("read")])
    def artifact(ref: Id) -> Any:
        """One artifact: files, signatures, lineage, events."""
        return plain(bench.artifacts.show(ref))

    @app.post("/api/promotions", tags=["registry"], dependencies=[gate.needs("promote")])
    def promote(body: Promotion) -> Any:
        """Move a stage to a version, through its gates."""
        return plain(bench.artifacts.promote(body.ref, body.stage, note=body.note))

    @app.post("/api/indexes/{name}/search", tags=["rag"], dependencies=[gate.needs("read")])
    def search(name: Id, body: Question) -> Any:
        """The best chunks of an index for a query, with every score."""
        return plain(bench.rag.search(name, body.query, body.k))


def _deployments(app: FastAPI, bench: Workbench, gate: _Gate) -> None:
    @app.get("/api/deployments", tags=["deployments"], dependencies=[gate.needs("read")])
    def list_all() -> Any:
        """Every deployment with its figures."""
        return plain(bench.serving.list())

    @app.post(
        "/api/deployments", tags=["deployments"], status_code=201, dependencies=[gate.needs("run")]
    )
    def start(body: NewDeployment) -> Any:
        """Start a deployment."""
        keys = body.model_dump()
        return plain(bench.serving.start(keys.pop("model"), **keys))

    @app.get("/api/deployments/{name}", tags=["deployments"], dependencies=[gate.needs("read")])
    def one(name: Id) -> Any:
        """One deployment."""
        return plain(bench.serving.get(name))

    for action in ("stop", "restart", "pause", "resume", "rollback", "sleep", "wake"):
        _deployment_action(app, bench, gate, action)


def _deployment_action(app: FastAPI, bench: Workbench, gate: _Gate, action: str) -> None:
    @app.post(
        f"/api/deployments/{{name}}/{action}",
        tags=["deployments"],
        name=action,
        dependencies=[gate.needs("run")],
    )
    def act(name: Id) -> Any:
        return plain(getattr(bench.serving, action)(name))


_EXAMPLE: dict[str, dict[str, Any]] = {
    "chat": {"model": "support-bot", "messages": [{"role": "user", "content": "Hello"}]},
    "completion": {"model": "support-bot", "prompt": "Once upon a time", "max_tokens": 16},
    "embedding": {"model": "embedder", "input": "some text"},
}


def _openai(app: FastAPI, bench: Workbench, router: Router, gate: _Gate) -> None:
    @app.get("/v1/models", tags=["openai"], dependencies=[gate.needs("read")])
    def models() -> Any:
        """Deployments, their adapters, and indexes (``rag:NAME``)."""
        return {"object": "list", "data": router.models()}

    def relay(path: str, example: dict[str, Any]) -> None:
        @app.post(
            path,
            tags=["openai"],
            name=path,
            response_class=JSONResponse,
            dependencies=[gate.needs("read")],
        )
        async def answer(
            document: dict[str, Any] = Body(examples=[example]),  # noqa: B008  FastAPI's way
        ) -> Response:
            """As in the OpenAI API; ``model`` is a deployment."""
            model = document.get("model")
            if not isinstance(model, str) or not model:
                raise HttpError(400, "model must be the name of a deployment")
            if is_rag(model) and path.endswith("chat/completions"):
                return await rag_answer(bench, document)
            record = await asyncio.to_thread(router.deployment, model)
            return RelayResponse(router, record, path, json.dumps(document).encode())

    relay("/v1/chat/completions", _EXAMPLE["chat"])
    relay("/v1/completions", _EXAMPLE["completion"])
    relay("/v1/embeddings", _EXAMPLE["embedding"])


__all__ = ["GatewaySettings", "create_app"]
