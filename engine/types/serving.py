"""Deployments, chat answers and access tokens as the screens, the CLI and the SDK see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class DeploymentState(StrEnum):
    """Where a deployment stands."""

    WAITING = "waiting"
    """Accepted; waits for memory or for the engine (``reason`` says which)."""
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    """Idle and unloaded; the next request wakes it."""
    RESTARTING = "restarting"
    """Its server died; it is started again after a pause."""
    STOPPING = "stopping"
    PAUSED = "paused"
    """Gave its memory back; `serve resume`, or a request through the gateway, brings it back."""
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class ServedVersion:
    """A model that a deployment serves or served."""

    model: str
    """``sha256:<hex>`` of the artifact, or the path or packaged name where it is none."""
    name: str
    """For people: ``support-bot 1.2``."""
    since: float


@dataclass(frozen=True)
class DeploymentView:
    """One deployment with its live figures (None where nothing runs)."""

    name: str
    ref: str
    """What it follows: ``support-bot@prod``."""
    backend: str
    state: DeploymentState
    reason: str
    url: str
    """Base URL of its OpenAI-compatible API, ending in ``/v1``."""
    job_id: str
    current: ServedVersion | None
    previous: tuple[ServedVersion, ...] = ()
    """Newest first: what `serve rollback` returns to."""
    pinned: bool = False
    task: str = "chat"
    adapters: tuple[str, ...] = ()
    context: int = 0
    share_bytes: int | None = None
    """Memory the engine holds for it, whether it is awake or not."""
    idle_minutes: float = 0.0
    key_file: str = ""
    """File (mode 0600) with its API key; empty when it asks for none."""
    pid: int | None = None
    memory_bytes: int | None = None
    started: float | None = None
    restarts: int = 0
    requests: int = 0
    failed: int = 0
    active: int = 0
    queued: int = 0
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    """Over the last minute."""
    first_byte_ms: Mapping[str, float] = field(default_factory=dict)
    """p50, p95 and p99 over the last 1,000 requests."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str

    def to_json(self) -> dict[str, str]:
        """As the OpenAI API writes it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. ``temperature`` 0 is greedy; ``seed`` None is random."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatPiece:
    """A part of a streamed answer.

    ``kind`` is ``prompt`` (``text`` is the exact prompt, before the first token), ``text`` (a piece
    of the answer) or ``end`` (``text`` is the whole answer, ``stats`` its figures).
    """

    kind: str
    text: str
    stats: Mapping[str, Any] = field(default_factory=dict)
    """prompt_tokens, tokens, seconds, first_token_s, tokens_per_s, finish_reason."""


@dataclass(frozen=True)
class TokenView:
    """An access token of the gateway; its secret is shown once and kept only as a hash."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    revoked: bool = False
