"""What the program's own commands may ask of a running deployment (``/-/<name>`` of its front)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.errors import Conflict, NotFound
from engine.serving import records
from engine.serving.upstream import UpstreamGone

if TYPE_CHECKING:
    from engine.serving.front import Command
    from recipes.serve.run import Deployment


class Commands:
    """The commands of one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def table(self) -> dict[str, Command]:
        """Name -> command."""
        return {
            "switch": self.switch,
            "rollback": self.rollback,
            "sleep": self.sleep,
            "wake": self.wake,
            "load": self.load,
            "unload": self.unload,
        }

    async def switch(self, params: dict[str, Any]) -> dict[str, Any]:
        """Serve what ``ref`` names now."""
        import asyncio

        deployment = self._deployment
        version = await asyncio.to_thread(deployment.version_of, str(params["ref"]))
        await deployment.host.switch(version)
        return {"model": version.model, "name": version.name}

    async def rollback(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Serve the version before, and stay with it."""
        from dataclasses import replace

        deployment = self._deployment
        record = records.load(deployment.ctx.paths, deployment.name)
        if not record.previous:
            raise Conflict(f"{record.name} has served one version only: there is none before it")
        version = record.previous[0]
        await deployment.host.switch(version)
        # without the pin the followed stage would switch it forward again at once
        records.change(deployment.ctx.paths, record.name, lambda old: replace(old, pinned=True))
        return {"model": version.model, "name": version.name}

    async def sleep(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Unload now."""
        if not await self._deployment.host.unload():
            raise Conflict("requests are being answered", hint="try again when they are done")
        self._deployment.picture()
        return {"state": str(self._deployment.host.state)}

    async def wake(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Load again, and return when it is ready."""
        server = await self._deployment.host.acquire()
        self._deployment.host.release(server)
        self._deployment.picture()
        return {"state": str(self._deployment.host.state)}

    async def load(self, params: dict[str, Any]) -> dict[str, Any]:
        """Load an adapter while it runs."""
        import asyncio

        from engine.models import resolve_model
        from recipes.serve.check import require_same_base

        deployment = self._deployment
        name = records.check_name(str(params["name"]))
        ref, paths = str(params["ref"]), deployment.ctx.paths
        if name in deployment.adapters or name == deployment.name:
            raise Conflict(
                f"the name {name!r} is taken here",
                hint=f"unload it first, or name the adapter otherwise: {name}-2={ref}",
            )
        location = await asyncio.to_thread(resolve_model, ref, paths)
        model = await asyncio.to_thread(resolve_model, deployment.host.version.model, paths)
        await asyncio.to_thread(require_same_base, location, model)
        body = {"lora_name": name, "lora_path": str(location.path)}
        await self._ask("/v1/load_lora_adapter", body)
        deployment.keep_adapters({**deployment.adapters, name: ref})
        return {"adapters": list(deployment.adapters)}

    async def unload(self, params: dict[str, Any]) -> dict[str, Any]:
        """Unload an adapter while it runs."""
        name = str(params["name"])
        if name not in self._deployment.adapters:
            raise NotFound(f"there is no adapter {name!r} here")
        await self._ask("/v1/unload_lora_adapter", {"lora_name": name})
        left = {key: ref for key, ref in self._deployment.adapters.items() if key != name}
        self._deployment.keep_adapters(left)
        return {"adapters": list(self._deployment.adapters)}

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        host = self._deployment.host
        server = await host.acquire()
        try:
            if not server.launch.live_adapters:
                raise Conflict(
                    "this backend takes adapters at its start only",
                    hint="start it with --adapter NAME=REF",
                )
            headers = [*server.headers(), (b"content-type", b"application/json")]
            answer = await server.upstream.request("POST", path, headers, json.dumps(body).encode())
            try:
                text = await answer.read()
            finally:
                answer.close()
        except UpstreamGone as error:
            raise Conflict("the server ended while it was asked", why=str(error)) from error
        finally:
            host.release(server)
        if answer.status != 200:
            why = text[:300].decode("utf-8", "replace")
            raise Conflict("the server refused the adapter", why=why)
