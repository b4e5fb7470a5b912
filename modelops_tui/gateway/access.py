"""Who comes in: tokens, scopes, and how often."""

from __future__ import annotations

import time
from collections import deque
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from engine.serving.messages import HttpError
from engine.types.serving import TokenView
from modelops_tui.gateway.tokens import Tokens, allows

_bearer = HTTPBearer(auto_error=False, description="A token of `modelops-tui gateway token add`.")


class Gate:
    """Checks the token of each request.

    Args:
        tokens: the valid ones.
        per_minute: requests a minute and token; 0: any.
    """

    def __init__(self, tokens: Tokens, per_minute: int) -> None:
        self.tokens = tokens
        self._limit = per_minute
        self._seen: dict[str, deque[float]] = {}

    def needs(self, scope: str) -> Any:
        """A dependency that lets in tokens with ``scope``.

        It is a coroutine on purpose: a plain function would cost every request a thread.
        """

        async def check(
            given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        ) -> TokenView:
            return self.admit(given.credentials if given is not None else "", scope)

        return Depends(check)

    def admit(self, secret: str, scope: str) -> TokenView:
        """The token of that secret, when it may do what asks for ``scope``.

        Raises:
            HttpError: 401 no valid token, 403 its scopes do not allow it, 429 too often.
        """
        token = self.tokens.find(secret) if secret else None
        if token is None:
            raise HttpError(401, "the token is missing, wrong or over", "authentication_error")
        if not allows(token, scope):
            raise HttpError(403, f"this needs a token with the scope {scope!r}", "permission_error")
        self._count(token)
        return token

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
