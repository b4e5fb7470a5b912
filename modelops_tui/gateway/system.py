"""``/api/engine``, ``/api/devices``, ``/api/doctor``, ``/api/settings``, ``/api/tokens``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from engine.plugins import overview
from engine.types.serving import TokenView
from engine.types.system import Check, DeviceView, DiskUse, EngineStatus
from modelops_tui.gateway.place import Given, Place, body, group, plain


class NewToken(Given):
    """A token to make."""

    model_config = body({"name": "laptop", "scopes": ["read"], "days": 30})
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
    scopes: Annotated[list[Literal["read", "run", "promote", "admin"]], Field(min_length=1)]
    days: Annotated[float, Field(gt=0, le=36500)] | None = None


class MadeToken(BaseModel):
    """A new token; the secret is shown here and nowhere else."""

    secret: str
    token: TokenView


class PluginState(BaseModel):
    """One thing a plugin brings, or why it was left out."""

    point: str
    name: str
    package: str
    state: Literal["ok", "left out"]
    reason: str


def routes(place: Place) -> APIRouter:
    """The machine, the engine, and who may come in."""
    router, system, gate = group("system"), place.bench.system, place.gate
    read, admin = [gate.needs("read")], [gate.needs("admin")]

    @router.get("/api/engine", dependencies=read)
    def engine() -> EngineStatus:
        """The engine of this state directory, or that none runs."""
        return system.engine_status()

    @router.get("/api/devices", dependencies=read)
    def devices() -> list[DeviceView]:
        """The GPUs and the CPU, with who holds their memory."""
        return list(system.devices())

    @router.get("/api/disk", dependencies=read)
    def disk() -> list[DiskUse]:
        """What takes the space of the state directory."""
        return list(system.disk())

    @router.get("/api/doctor", dependencies=admin)
    def doctor() -> list[Check]:
        """Look at everything that jobs depend on."""
        return [Check(**plain(asdict(check))) for check in system.doctor()]

    @router.get("/api/settings", dependencies=admin)
    def settings() -> dict[str, Any]:
        """Every setting of this state directory."""
        value: dict[str, Any] = plain(system.settings())
        return value

    @router.get("/api/plugins", dependencies=read)
    def plugins() -> list[PluginState]:
        """Everything plugged in; a broken plugin is named with its reason."""
        rows = []
        for held in overview():
            for good in held.plugins:
                rows.append(
                    PluginState(
                        point=good.point, name=good.name, package=good.package,
                        state="ok", reason="",
                    )
                )  # fmt: skip
            for bad in held.broken:
                rows.append(
                    PluginState(
                        point=bad.point, name=bad.name, package=bad.package,
                        state="left out", reason=bad.reason,
                    )
                )  # fmt: skip
        return rows

    _tokens(router, place)
    return router


def _tokens(router: APIRouter, place: Place) -> None:
    admin, tokens = [place.gate.needs("admin")], place.gate.tokens

    @router.get("/api/tokens", dependencies=admin)
    def list_tokens() -> list[TokenView]:
        """Every token, without its secret."""
        return list(tokens.list())

    @router.post("/api/tokens", status_code=201, dependencies=admin)
    def add(body: NewToken) -> MadeToken:
        """Make a token."""
        secret, view = tokens.add(body.name, body.scopes, body.days)
        return MadeToken(secret=secret, token=view)

    @router.delete("/api/tokens/{token}", dependencies=admin)
    def revoke(
        token: Annotated[str, Path(pattern="^[0-9a-f]{8}$", examples=["0badc0de"])],
    ) -> TokenView:
        """End a token at once."""
        return tokens.revoke(token)
