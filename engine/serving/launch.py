"""What a serving backend is: how the server of a model is started. Found by entry point."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models import ModelLocation
    from engine.paths import StatePaths
    from engine.serving.warm import Warm

#: Entry points that give a ``ServingBackend``.
GROUP = "modelops_tui.serving"


@dataclass(frozen=True)
class LaunchRequest:
    """What is to be served, with everything already found and verified."""

    name: str
    """The deployment's name: the model name clients use."""
    location: ModelLocation
    adapters: Mapping[str, ModelLocation]
    """Name -> adapter."""
    paths: StatePaths
    work_dir: Path
    port: int
    """A free loopback port for the server."""
    key: str
    """The key the server must ask for; only the front knows it."""
    task: str = "chat"
    context: int = 2048
    threads: int = 1
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    share_bytes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's own table of the recipe."""


@dataclass(frozen=True)
class Launch:
    """A server process to be: loopback only, ready when ``ready_path`` answers 200."""

    argv: tuple[str, ...]
    port: int
    key: str
    env: Mapping[str, str] = field(default_factory=dict)
    parallel: int = 1
    """Requests worth sending at once; the others wait in the front's queue."""
    ready_path: str = "/v1/models"
    start_timeout_s: float = 120.0
    live_adapters: bool = False
    """Adapters can be loaded and unloaded while it runs."""
    warm: Warm | None = None
    """A process that has loaded the server's libraries already, to become this one."""


@dataclass(frozen=True)
class ServingBackend:
    """A program that serves models over the OpenAI protocol.

    ``launch`` is ``"module:function"``, called as ``launch(LaunchRequest) -> Launch`` in the
    worker; it may convert or merge files first. ``check`` is ``"module:function"``, called as
    ``check(spec, location, paths) -> list[Problem]`` before submit. ``memory``, where given, is
    called as ``memory(spec, location, device) -> dict[str, int]``: bytes by part that its server
    holds beside the weights; without it those of the llama.cpp server are reckoned with.
    """

    name: str
    summary: str
    launch: str
    check: str
    memory: str = ""
    api_version: int = 1


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LaunchFunction = Callable[[LaunchRequest], Launch]
