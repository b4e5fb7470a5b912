"""``modelops-tui gateway``: the HTTP gateway and its tokens. Off unless started."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="The workbench over HTTP, with an OpenAI-compatible front.")
token_app = typer.Typer(help="Access tokens.", no_args_is_help=True)
app.add_typer(token_app, name="token")

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
_LOOPBACK = ("127.0.0.1", "::1")


@app.callback(invoke_without_command=True)
def gateway(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8080,
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
    _check_tls(tls_certificate, tls_key)
    import uvicorn

    from engine.serving.ports import listen
    from engine.serving.protocol import HttpProtocol
    from modelops_tui.gateway.app import GatewaySettings, create_app
    from modelops_tui.gateway.tokens import Tokens

    bench = Workbench()
    listening = listen(host, port)
    if not Tokens(bench.paths).list():
        out.say("there is no token yet\nhint: modelops-tui gateway token add NAME --scope run")
    shown = f"[{host}]" if ":" in host else host
    port = listening.getsockname()[1]
    out.say(f"listening on {'https' if tls_certificate else 'http'}://{shown}:{port} (/docs)")
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


def _check_tls(certificate: str, key: str) -> None:
    """Refuse files that no TLS server can begin with, before anything listens.

    Raises:
        BadInput: one without the other, no such file, no PEM, or a key of another certificate.
    """
    if not certificate and not key:
        return
    if not certificate or not key:
        raise BadInput(
            "--tls-certificate and --tls-key belong together",
            hint="openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost"
            " -keyout key.pem -out cert.pem makes both",
        )
    for option, path in (("--tls-certificate", certificate), ("--tls-key", key)):
        if not Path(path).is_file():
            raise BadInput(f"{option}: there is no file {path}", hint="name a file in PEM")
    import ssl

    def no_passphrase() -> str:
        # else OpenSSL asks on the terminal, where a service has none
        raise BadInput(
            f"{key} is locked with a passphrase", hint="openssl pkey -in KEY -out OPEN unlocks it"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_passphrase)
    except (ssl.SSLError, OSError) as error:
        raise BadInput(
            "TLS can't begin with these files",
            why=str(error),
            hint="both in PEM, and the key the one of that certificate",
        ) from error


@token_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, run, promote or admin (each with those before).")
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="Valid so many days (default: until it is revoked).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token. It is printed once; only its hash is kept."""
    from modelops_tui.gateway.tokens import Tokens

    out.choose(as_json=as_json)
    secret, view = Tokens(Workbench().paths).add(name, scope or ["read"], days)
    if out.format is not Format.TABLE:
        out.json({"secret": secret, "token": asdict(view)})
        return
    out.say(f"token {view.id} for {name}: {', '.join(view.scopes)}; it is shown this once")
    out.line(secret)


@token_app.command("list")
def list_(as_json: Json = False) -> None:
    """Every token, without its secret."""
    from modelops_tui.gateway.tokens import Tokens

    out.choose(as_json=as_json)
    rows = [asdict(view) for view in Tokens(Workbench().paths).list()]
    if out.format is Format.TABLE:
        rows = [
            {**row, "scopes": " ".join(row["scopes"]), "expires": _expires(row)} for row in rows
        ]
    out.rows(
        ["id", "name", "scopes", "expires", "revoked"],
        rows,
        empty="no token yet\nhint: modelops-tui gateway token add NAME --scope run",
    )


def _expires(row: dict[str, Any]) -> str:
    if row["expires"] is None:
        return "never"
    moment = datetime.fromtimestamp(row["expires"]).astimezone().isoformat(timespec="seconds")
    return f"{moment} (over)" if row["expires"] < time.time() else moment


@token_app.command("revoke")
def revoke(token: Annotated[str, typer.Argument(help="Its id.")], as_json: Json = False) -> None:
    """End a token at once."""
    from modelops_tui.gateway.tokens import Tokens

    out.choose(as_json=as_json)
    view = Tokens(Workbench().paths).revoke(token)
    if out.format is not Format.TABLE:
        out.json(asdict(view))
        return
    out.say(f"token {view.id} ({view.name}) is over")
