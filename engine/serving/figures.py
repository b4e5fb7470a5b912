"""What a front counts: requests, tokens, latencies. Plain arithmetic over bounded windows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: Seconds over which rates are told.
WINDOW_S = 60.0
#: Requests whose latency is remembered.
KEPT = 1000


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99 (nearest rank) of seconds, as milliseconds; empty without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {
        f"p{p}": round(ordered[min(last, int(len(ordered) * p / 100))] * 1000, 2)
        for p in (50, 95, 99)
    }


@dataclass
class Figures:
    """Counters of one front since it began."""

    requests: int = 0
    failed: int = 0
    tokens: int = 0
    active: int = 0
    queued: int = 0
    first_byte: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    last_used: float = field(default_factory=time.monotonic)
    _requests_at: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    _tokens_at: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100_000))

    def began(self) -> None:
        """A request arrived."""
        self.requests += 1
        self.last_used = time.monotonic()
        self._requests_at.append(self.last_used)

    def ended(self, seconds: float, *, ok: bool) -> None:
        """A request ended after ``seconds``."""
        self.last_used = time.monotonic()
        self.latency.append(seconds)
        self.failed += not ok

    def produced(self, tokens: int) -> None:
        """``tokens`` were sent to a client."""
        if tokens:
            self.tokens += tokens
            self._tokens_at.append((time.monotonic(), tokens))

    def rates(self) -> tuple[float, float]:
        """Requests and tokens per second over the last minute."""
        since = time.monotonic() - WINDOW_S
        while self._requests_at and self._requests_at[0] < since:
            self._requests_at.popleft()
        while self._tokens_at and self._tokens_at[0][0] < since:
            self._tokens_at.popleft()
        tokens = sum(count for _, count in self._tokens_at)
        return len(self._requests_at) / WINDOW_S, tokens / WINDOW_S

    def to_json(self) -> dict[str, Any]:
        """As ``status.json`` keeps it."""
        requests_per_s, tokens_per_s = self.rates()
        return {
            "requests": self.requests,
            "failed": self.failed,
            "tokens": self.tokens,
            "active": self.active,
            "queued": self.queued,
            "requests_per_s": round(requests_per_s, 3),
            "tokens_per_s": round(tokens_per_s, 3),
            "first_byte_ms": percentiles(self.first_byte),
            "latency_ms": percentiles(self.latency),
        }
