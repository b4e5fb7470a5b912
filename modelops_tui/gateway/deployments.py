"""``/api/deployments``: start, look, switch, stop."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.responses import PlainTextResponse
from pydantic import Field

from engine.types.serving import DeploymentView
from modelops_tui.gateway.place import WHOLE, Given, Offset, Place, body, group

Deployment = Annotated[
    str,
    Path(
        max_length=64,
        pattern=r"^([a-z0-9](\.?[a-z0-9_-])*\.?[a-z0-9]|[a-z0-9])$",
        examples=["support-bot"],
    ),
]
_MODEL = Field(min_length=1, max_length=1000)


class NewDeployment(Given):
    """A deployment to start."""

    model_config = body({"model": "smollm2", "name": "chatty", "idle_minutes": 30})
    model: Annotated[str, _MODEL]
    name: Annotated[str, Field(max_length=64)] = ""
    backend: Annotated[str, Field(max_length=64)] = "llama.cpp"
    memory: Annotated[str, Field(max_length=32)] = "auto"
    task: Literal["chat", "embed"] = "chat"
    context: Annotated[int, Field(ge=64, le=1 << 20), WHOLE] = 2048
    threads: Annotated[int, Field(ge=0, le=1024), WHOLE] = 0
    idle_minutes: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    adapters: Annotated[dict[str, str], Field(max_length=32, default_factory=dict)]
    """Name -> reference of adapters over the model."""


class Switch(Given):
    """The version to serve."""

    model_config = body({"ref": "support-bot@2"})
    ref: Annotated[str, _MODEL]


def routes(place: Place) -> APIRouter:
    """Everything about deployments."""
    router, serving, gate = group("deployments"), place.bench.serving, place.gate
    read, run = [gate.needs("read")], [gate.needs("run")]

    @router.get("/api/deployments", dependencies=read)
    def list_all() -> list[DeploymentView]:
        """Every deployment with its figures."""
        return list(serving.list())

    @router.post("/api/deployments", status_code=201, dependencies=run)
    def start(body: NewDeployment) -> DeploymentView:
        """Start a deployment. It answers as soon as it is ready; requests wait for it."""
        keys: dict[str, Any] = body.model_dump()
        return serving.start(keys.pop("model"), engine=place.settings.start_engine, **keys)

    @router.get("/api/deployments/{name}", dependencies=read)
    def one(name: Deployment) -> DeploymentView:
        """One deployment."""
        return serving.get(name)

    @router.delete("/api/deployments/{name}", status_code=204, dependencies=run)
    def remove(name: Deployment) -> None:
        """Forget a stopped deployment, with its key."""
        serving.remove(name)

    @router.get("/api/deployments/{name}/log", response_class=PlainTextResponse, dependencies=read)
    def log(name: Deployment, tail: Offset = 65536) -> str:
        """The end of what its servers wrote."""
        path = serving.log_path(name)
        if not path.exists():
            return ""
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - min(tail, 1 << 20)))
            return file.read().replace(b"\0", b"").decode("utf-8", "replace")

    @router.post("/api/deployments/{name}/switch", dependencies=run)
    def switch(name: Deployment, body: Switch) -> DeploymentView:
        """Serve another version without failing a request."""
        return serving.switch(name, body.ref)

    @router.put("/api/deployments/{name}/pin", dependencies=run)
    def pin(name: Deployment) -> DeploymentView:
        """Stay with this version whatever is promoted."""
        return serving.pin(name)

    @router.delete("/api/deployments/{name}/pin", dependencies=run)
    def unpin(name: Deployment) -> DeploymentView:
        """Follow the stage again."""
        return serving.pin(name, pinned=False)

    @router.put("/api/deployments/{name}/adapters/{adapter}", dependencies=run)
    def load(name: Deployment, adapter: Deployment, body: Switch) -> DeploymentView:
        """Load an adapter into a running deployment (backends that can)."""
        return serving.load_adapter(name, adapter, body.ref)

    @router.delete("/api/deployments/{name}/adapters/{adapter}", dependencies=run)
    def unload(name: Deployment, adapter: Deployment) -> DeploymentView:
        """Unload an adapter."""
        return serving.unload_adapter(name, adapter)

    _actions(router, place)
    return router


def _actions(router: APIRouter, place: Place) -> None:
    words = {
        "stop": "Let what runs finish, then stop.",
        "restart": "Stop it where it runs, and start it as it was asked for.",
        "pause": "Stop it for a while and give its memory back to others.",
        "resume": "Bring a paused deployment back when its memory is free.",
        "rollback": "Serve the version before, and stay with it.",
        "sleep": "Unload it now; the next request wakes it.",
        "wake": "Load it again; answers when it is ready.",
    }

    def action(name: str, text: str) -> None:
        @router.post(
            f"/api/deployments/{{deployment}}/{name}",
            name=f"{name}_deployment",
            description=text,
            dependencies=[place.gate.needs("run")],
        )
        def act(deployment: Deployment) -> DeploymentView:
            serving = place.bench.serving
            if name == "restart":
                return serving.restart(deployment, engine=place.settings.start_engine)
            view: DeploymentView = getattr(serving, name)(deployment)
            return view

    for name, text in words.items():
        action(name, text)
