"""Access tokens: scoped, expiring, kept as SHA-256 only (they are random, so no slow hash)."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.errors import BadInput, NotFound
from engine.paths import StatePaths
from engine.supervise.durable import write_durably
from engine.types.serving import TokenView

#: What a token may do; each includes the ones before it.
SCOPES = ("read", "run", "promote", "admin")
_PREFIX = "mo_"
_LONGEST_DAYS = 36_500


Rows = list[dict[str, Any]]


class Tokens:
    """The tokens of one state directory."""

    def __init__(self, paths: StatePaths) -> None:
        self._folder = paths.root / "gateway"
        self._file: Path = self._folder / "tokens.json"
        self._known: tuple[tuple[int, int, int], Rows] = ((0, 0, 0), [])

    def add(
        self, name: str, scopes: Sequence[str], days: float | None = None
    ) -> tuple[str, TokenView]:
        """Make a token; its secret is returned here and nowhere else.

        Raises:
            BadInput: an unknown scope, no name, or a time it could not be valid for.
        """
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes or not name.strip():
            raise BadInput(
                "a token needs a name and known scopes",
                why=f"unknown: {', '.join(unknown)}" if unknown else "",
                hint=f"scopes: {', '.join(SCOPES)}",
            )
        if days is not None and not 0 < days <= _LONGEST_DAYS:
            raise BadInput(
                f"a token can't be valid for {days:g} days",
                hint=f"more than 0, at most {_LONGEST_DAYS}; without days, until it is revoked",
            )
        secret = _PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        row = {
            "id": secrets.token_hex(4),
            "name": name,
            "scopes": sorted(set(scopes), key=SCOPES.index),
            "hash": digest(secret),
            "created": now,
            "expires": now + days * 86400 if days is not None else None,
            "revoked": False,
        }
        self._change(lambda rows: [*rows, row])
        return secret, _view(row)

    def list(self) -> tuple[TokenView, ...]:
        """Every token, without its secret."""
        return tuple(_view(row) for row in self._rows())

    def revoke(self, token_id: str) -> TokenView:
        """End a token at once.

        Raises:
            NotFound: no token of that id.
        """
        if all(row["id"] != token_id for row in self._rows()):
            raise NotFound(
                f"there is no token {token_id!r}", hint="modelops-tui gateway token list"
            )
        self._change(
            lambda rows: [{**r, "revoked": r["revoked"] or r["id"] == token_id} for r in rows]
        )
        return next(view for view in self.list() if view.id == token_id)

    def find(self, secret: str) -> TokenView | None:
        """The valid token of that secret, or None."""
        wanted, found = digest(secret), None
        for row in self._rows():
            if hmac.compare_digest(row["hash"], wanted):
                found = row
        if found is None or found["revoked"]:
            return None
        if found["expires"] is not None and found["expires"] < time.time():
            return None
        return _view(found)

    def _rows(self) -> Rows:
        """The tokens as the file has them now; read again only when it was replaced.

        Every change replaces the file, so inode, time and size tell: a token that another process
        revoked is refused by the next request.
        """
        try:
            stat = self._file.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp != self._known[0]:
                self._known = (stamp, json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return []
        return self._known[1]

    def _change(self, how: Callable[[Rows], Rows]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_durably(self._file, json.dumps(how(self._rows())).encode())


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def allows(token: TokenView, scope: str) -> bool:
    """Whether a token may do what asks for ``scope``."""
    return max(map(SCOPES.index, token.scopes)) >= SCOPES.index(scope)


def _view(row: dict[str, Any]) -> TokenView:
    return TokenView(
        id=row["id"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
    )
