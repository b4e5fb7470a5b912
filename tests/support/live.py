"""A whole house: engine, deployments of a tiny real model, an index, and a gateway in front."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import Conflict
from modelops_tui import Workstation
from modelops_tui.gateway.app import GatewaySettings
from tests.support.gateway import Gateway, running_gateway
from tests.support.tiny_model import build_tiny_model

_HANDBOOK = """# Jobs

## Pausing

A paused job saves a checkpoint, frees the device and keeps its place in the queue.

## Cancelling

A cancelled job ends at once and can be tried again.
"""


@dataclass
class House:
    station: Workstation
    gateway: Gateway
    token: str


@contextmanager
def house(folder: Path) -> Iterator[House]:
    """Deployments ``support-bot`` (chat) and ``embedder``; index ``handbook``; dataset-less."""
    from recipes.gguf.convert import convert

    model = folder / "tiny.gguf"
    convert(build_tiny_model(folder / "tiny", 0), model)
    documents = folder / "handbook"
    documents.mkdir()
    (documents / "jobs.md").write_text(_HANDBOOK)
    before = {name: os.environ.get(name) for name in ("MODELOPS_HOME", "MODELOPS_SPACE_FLOOR_MIB")}
    os.environ.update(MODELOPS_HOME=str(folder / "state"), MODELOPS_SPACE_FLOOR_MIB="1")
    try:
        with Workstation(folder / "state") as station:
            common: dict[str, Any] = {
                "threads": 1,
                "context": 512,
                "memory": "300 MiB",
                "wait": False,
            }
            station.serve(str(model), name="support-bot", **common)
            station.serve(str(model), name="embedder", task="embed", **common)
            list(station.rag.sync(str(documents), "handbook"))
            for name in ("support-bot", "embedder"):
                station.serving.wait_ready(name, 300)
            settings = GatewaySettings(requests_per_minute=0)
            try:
                with running_gateway(folder / "state", settings) as gateway:
                    token, _ = gateway.tokens.add("tests", ["admin"])
                    yield House(station, gateway, token)
            finally:
                for view in station.serving.list():
                    with suppress(Conflict):
                        station.serving.stop(view.name, wait_s=60)
                station.system.stop_engine()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
