"""``modelops-tui gateway``: the HTTP gateway and its tokens. Off unless started."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from engine.api import Workbench
from engine.errors import BadInput
from modelops_tui.cli.output import out

app = typer.Typer(help="The workbench over HTTP, with an OpenAI-compatible front.")
token_app = typer.Typer(help="Access tokens.", no_args_is_help=True)
app.add_typer(token_app, name="token")

_LOOPBACK = ("127.0.0.1", "::1")


@app.callback(invoke_without_command=True)
def gateway(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8080,
    rate: Annotated[int, typer.Option(min=0, help="Requests a minute and token; 0: any.")] = 600,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest request body.")] = 8.0,
    tls_certificate: Annotated[str, typer.Option(help="PEM file: https.")] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file.")] = "",
) -> None:
    """Serve until ctrl+c. Make a token first: `gateway token add NAME --scope run`."""
    if ctx.invoked_subcommand is not None:
        return
    if host not in _LOOPBACK and not tls_certificate:
        raise BadInput(
            f"{host} can be reached from outside, and tokens would travel unencrypted",
            hint="give --tls-certificate and --tls-key, or listen on 127.0.0.1",
        )
    import uvicorn

    from engine.serving.ports import listen
    from engine.serving.protocol import HttpProtocol
    from modelops_tui.gateway.app import GatewaySettings, create_app
    from modelops_tui.gateway.tokens import Tokens

    bench = Workbench()
    listening = listen(host, port)
    if not Tokens(bench.paths).list():
        out.say("there is no token yet\nhint: modelops-tui gateway token add NAME --scope run")
    out.say(f"listening on {'https' if tls_certificate else 'http'}://{host}:{port} (/docs)")
    config = uvicorn.Config(
        create_app(bench, GatewaySettings(int(max_mb * (1 << 20)), rate)),
        http=HttpProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        ssl_certfile=tls_certificate or None,
        ssl_keyfile=tls_key or None,
    )
    uvicorn.Server(config).run(sockets=[listening])


@token_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, run, promote or admin (each with those before).")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Valid so long.")] = None,
) -> None:
    """Make a token. It is printed once; only its hash is kept."""
    from modelops_tui.gateway.tokens import Tokens

    secret, view = Tokens(Workbench().paths).add(name, scope or ["read"], days)
    out.say(f"token {view.id} for {name}: {', '.join(view.scopes)}; it is shown this once")
    out.line(secret)


@token_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """Every token, without its secret."""
    from modelops_tui.gateway.tokens import Tokens

    out.choose(as_json=as_json)
    rows = [asdict(view) for view in Tokens(Workbench().paths).list()]
    out.rows(["id", "name", "scopes", "revoked"], rows, empty="no token yet")


@token_app.command("revoke")
def revoke(token: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """End a token at once."""
    from modelops_tui.gateway.tokens import Tokens

    view = Tokens(Workbench().paths).revoke(token)
    out.say(f"token {view.id} ({view.name}) is over")
