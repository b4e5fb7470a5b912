"""The FastAPI application over ``engine.api``: every route names the scope it asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from engine.api import Workbench
from modelops_tui import __version__
from modelops_tui.gateway import (
    data,
    deployments,
    indexes,
    jobs,
    openai,
    recipes,
    registry,
    remotes,
    system,
)
from modelops_tui.gateway.access import Gate
from modelops_tui.gateway.errors import handle_errors
from modelops_tui.gateway.exposition import exposition
from modelops_tui.gateway.limits import Limits
from modelops_tui.gateway.place import REFUSALS, GatewaySettings, Place, openapi_of
from modelops_tui.gateway.routing import Router
from modelops_tui.gateway.tokens import Tokens

_GROUPS = (openai, jobs, recipes, data, registry, remotes, indexes, deployments, system)


class Health(BaseModel):
    """That the gateway answers."""

    status: str
    version: str


def create_app(bench: Workbench, settings: GatewaySettings | None = None) -> FastAPI:
    """The gateway of one state directory."""
    settings = settings or GatewaySettings()
    router = Router(bench, wait_s=settings.wait_s, start_engine=settings.start_engine)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        router.close()
        bench.rag.close()

    app = FastAPI(
        title="ModelOps TUI gateway",
        version=__version__,
        description="The workbench over HTTP, and one OpenAI-compatible address for every model.",
        lifespan=life,
        # a path that is not there is not there: no hint of what would be, and one status for it
        redirect_slashes=False,
    )
    gate = Gate(Tokens(bench.paths), settings.requests_per_minute)
    place = Place(bench, gate, router, settings)
    app.state.router = router
    handle_errors(app)
    # before all others: routes are looked through in order, and these must be quick
    app.router.routes.extend(openai.endpoints(place))
    _health(app, place)
    for module in _GROUPS:
        app.include_router(module.routes(place))
    app.openapi = openapi_of(app, openai.described(), openai.schemas())  # type: ignore[method-assign]
    app.add_middleware(Limits, max_body=settings.max_body)
    return app


def _health(app: FastAPI, place: Place) -> None:
    @app.get("/health", tags=["gateway"])
    async def health() -> Health:
        """Whether the gateway answers. Open to everyone."""
        return Health(status="ok", version=__version__)

    @app.get(
        "/metrics",
        tags=["gateway"],
        response_class=PlainTextResponse,
        responses=REFUSALS,
        dependencies=[place.gate.needs("read")],
    )
    async def metrics() -> str:
        """Figures of the gateway, the jobs, the deployments and the devices, for Prometheus."""
        # jobs and devices are read from files
        told: str = await run_in_threadpool(exposition, place.bench, place.router.figures)
        return told


__all__ = ["GatewaySettings", "create_app"]
