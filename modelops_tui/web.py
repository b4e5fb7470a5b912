"""``modelops-tui --web``: the same screens in a browser, on loopback only, behind a token.

textual-serve starts one terminal session per browser tab and speaks to it over a websocket; this
module adds the token, without which nothing is answered.
"""

from __future__ import annotations

import secrets
import shlex
import socket
import sys
from typing import TYPE_CHECKING, Any

from engine.errors import MissingPart
from modelops_tui.cli.output import ExitCode, out

if TYPE_CHECKING:
    from textual_serve.server import Server

HOST = "127.0.0.1"
COOKIE = "modelops_token"


def serve(ascii_only: bool = False) -> int:
    """Serve the workbench until ctrl+c; prints the address with its token.

    Raises:
        MissingPart: textual-serve is not installed.
    """
    server, address = make_server(ascii_only=ascii_only)
    out.line(address)
    out.say("Open this address in a browser on this machine (over SSH: forward the port).")
    out.say("ctrl+c ends it; jobs go on.")
    server.serve()
    return ExitCode.OK


def make_server(ascii_only: bool = False, port: int = 0, token: str = "") -> tuple[Server, str]:
    """The server and the address that opens it; a free port and a new token by default."""
    try:
        from textual_serve.server import Server
    except ImportError as error:
        raise MissingPart(
            "the browser view needs textual-serve",
            why="it is not installed",
            hint="pip install 'modelops-tui[web]'",
        ) from error
    # nobody else is given the port before the server, which imports a second long, takes it
    reserved = _reserved(port)
    port = int(reserved.getsockname()[1])
    token = token or secrets.token_urlsafe(24)

    class GuardedServer(Server):
        reserved_port = reserved

        async def _make_app(self) -> Any:
            app = await super()._make_app()
            app.middlewares.append(_guard(token, port))
            return app

    command = shlex.join([sys.executable, "-m", "modelops_tui", *(["--ascii"] * ascii_only)])
    server = GuardedServer(command, host=HOST, port=port, title="ModelOps TUI")
    return server, f"http://{HOST}:{port}/?token={token}"


def _reserved(port: int) -> socket.socket:
    """A socket that is bound but does not listen: who also sets SO_REUSEADDR may listen there.

    Raises:
        OSError: the port is taken.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
    except OSError:
        made.close()
        raise
    return made


def _guard(token: str, port: int) -> Any:
    """Refuse what has no token, and every foreign Host or Origin (DNS rebinding)."""
    from aiohttp import web

    allowed = {f"{HOST}:{port}", f"localhost:{port}"}

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        origin = request.headers.get("Origin", "").partition("://")[2]
        if request.host not in allowed or (origin and origin not in allowed):
            return web.Response(status=403, text="wrong host\n")
        given = request.query.get("token") or request.cookies.get(COOKIE, "")
        if not secrets.compare_digest(given.encode(), token.encode()):
            return web.Response(status=401, text="the address with its token is needed\n")
        response: web.StreamResponse = await handler(request)
        if not response.prepared:
            response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
        return response

    return guard
