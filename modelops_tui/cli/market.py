"""``modelops-tui market``: adapters shared in a bucket or a folder."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from engine.api import Workbench
from engine.errors import IntegrityError
from modelops_tui.cli.output import Format, out

app = typer.Typer(no_args_is_help=True, help="A catalogue of shared adapters.")

Where = Annotated[
    str, typer.Argument(metavar="CATALOGUE", help="A remote's name, an s3:// address or a folder.")
]
Ref = Annotated[str, typer.Argument(metavar="NAME", help="NAME, NAME@VERSION or FINGERPRINT/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
_COLUMNS = ("name", "version", "base", "license", "publisher", "pinned", "installed", "summary")


@app.command()
def browse(
    where: Where,
    base: Annotated[str | None, typer.Option("--base", help="Only for this base.")] = None,
    as_json: Json = False,
) -> None:
    """Everything that is shared, newest first."""
    out.choose(as_json=as_json)
    rows = [dataclasses.asdict(e) for e in Workbench().artifacts.market_browse(where, "", base)]
    out.rows(_COLUMNS, rows, empty="nothing is shared there yet")


@app.command()
def search(
    where: Where,
    words: Annotated[list[str], typer.Argument(help="Words that must all occur.")],
    as_json: Json = False,
) -> None:
    """Shared adapters by words."""
    out.choose(as_json=as_json)
    found = Workbench().artifacts.market_browse(where, " ".join(words))
    out.rows(_COLUMNS, [dataclasses.asdict(e) for e in found], empty="nothing matches")


@app.command()
def show(where: Where, ref: Ref, as_json: Json = False) -> None:
    """The card of a shared adapter."""
    out.choose(as_json=as_json)
    card = Workbench().artifacts.market_card(where, ref)
    if out.format is Format.TABLE:
        out.line(card)
    else:
        out.json({"name": ref, "card": card})


@app.command()
def publish(
    where: Where,
    ref: Annotated[str, typer.Argument(help="An adapter of this registry.")],
    summary: Annotated[str, typer.Option("--summary", help="One line about it.")] = "",
    as_json: Json = False,
) -> None:
    """Share an adapter, signed with this machine's key."""
    out.choose(as_json=as_json)
    entry = Workbench().artifacts.market_publish(where, ref, summary)
    out.record(dataclasses.asdict(entry))


@app.command()
def pin(
    where: Where,
    fingerprint: Annotated[str, typer.Argument(help="As its owner tells you by another way.")],
    owner: Annotated[str, typer.Option("--as", help="Who it is, in your words.")] = "",
    as_json: Json = False,
) -> None:
    """Trust a publisher."""
    out.choose(as_json=as_json)
    key = Workbench().artifacts.market_pin(where, fingerprint, owner)
    if out.format is Format.TABLE:
        out.line(f"pinned {key}")
    else:
        out.json({"pinned": key, "owner": owner})


@app.command()
def unpin(
    where: Where, fingerprint: Annotated[str, typer.Argument(help="The publisher's.")]
) -> None:
    """Trust a publisher no more."""
    Workbench().artifacts.market_unpin(where, fingerprint)


@app.command()
def install(
    where: Where,
    ref: Ref,
    base: Annotated[str | None, typer.Option("--base", help="The base it is to go on.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call it here.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch an adapter of a pinned publisher, everything checked first."""
    out.choose(as_json=as_json)
    view = Workbench().artifacts.market_install(
        where,
        ref,
        base=base,
        name=name,
        progress=lambda file, done, total: out.status(f"{file}: {done} of {total} bytes"),
    )
    out.status_end()
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(view))
    else:
        out.line(f"{view.name}@{view.version} is installed, under the licence {view.license}")


@app.command()
def verify(where: Where, ref: Ref, as_json: Json = False) -> None:
    """Read a shared adapter's files again; exit status 6 when one is not what was signed."""
    out.choose(as_json=as_json)
    problems = Workbench().artifacts.market_verify(where, ref)
    if problems:
        raise IntegrityError(f"{ref} is not what was signed", why="; ".join(problems))
    if out.format is Format.TABLE:
        out.line(f"{ref}: every file is what its publisher signed")
    else:
        out.json({"name": ref, "ok": True})
