"""``modelops-tui rag``: index folders, search, ask, inspect, evaluate."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Ask documents: index, search, ask, evaluate.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
IndexName = Annotated[str, typer.Argument(help="Index, or an artifact such as NAME@prod.")]
PathGlob = Annotated[str, typer.Option("--path", help="Only files that fit this glob.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only documents with this tag.")]
Since = Annotated[str, typer.Option(help="Only documents of this day or later.")]
Until = Annotated[str, typer.Option(help="Only documents of this day or earlier.")]


@app.command()
def sync(
    folder: Annotated[str, typer.Argument(help="A folder, or docs (the bundled documentation).")],
    name: Annotated[
        str | None, typer.Option("--name", help="Index (default: folder name).")
    ] = None,
    model: Annotated[str, typer.Option(help="Embedding model.")] = "all-minilm-l6-v2",
    language: Annotated[str, typer.Option(help="Language of the documents.")] = "English",
    include: Annotated[list[str] | None, typer.Option(help="Only these globs.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Never these globs.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Anew, then switch.")] = False,
    as_json: Json = False,
) -> None:
    """Make an index of a folder, or bring it up to date: only what changed is embedded."""
    out.choose(as_json=as_json)
    index = name or Path(folder).name.lower().replace(" ", "-")
    events = Workbench().rag.sync(
        folder, index, model=model, language=language, include=include, exclude=exclude,
        rebuild=rebuild,
    )  # fmt: skip
    for event in events:
        if "result" in event:
            out.status_end()
            _show_report(index, event["result"])
        else:
            out.status(f"{event['done']}/{event['total']} files  {event['name']}")


def _show_report(index: str, report: dict[str, Any]) -> None:
    if out.format is not Format.TABLE:
        out.json(report)
        return
    changes = ", ".join(
        f"{report[n]} {n}" for n in ("added", "changed", "renamed", "removed", "unchanged")
    )
    out.line(f"{index}: {report['documents']} documents, {report['chunks']} chunks ({changes})")
    kept = f"{report['embedded_chunks']} chunks embedded, {report['reused_chunks']} kept"
    out.line(f"{kept}, {report['seconds']:.1f} s")
    trouble = {**report["warnings"], **report["unreadable"]}
    if trouble:
        out.line()
        out.rows(("file", "remark"), [{"file": p, "remark": w} for p, w in sorted(trouble.items())])


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every index."""
    out.choose(as_json=as_json)
    rows = []
    for view in Workbench().rag.list():
        when = datetime.fromtimestamp(view.updated).astimezone().isoformat(timespec="seconds")
        rows.append({**dataclasses.asdict(view), "updated": when})
    out.rows(
        ("name", "documents", "chunks", "unreadable", "updated", "model", "folder"),
        rows,
        empty="no index yet: modelops-tui rag sync FOLDER (try: rag sync docs)",
    )


@app.command()
def search(
    index: IndexName,
    query: Annotated[str, typer.Argument(help="Plain words.")],
    k: Annotated[int, typer.Option("-k", help="Hits.", min=1, max=200)] = 5,
    path: PathGlob = "",
    tag: Tags = None,
    since: Since = "",
    until: Until = "",
    mode: Annotated[str, typer.Option(help="hybrid, bm25, dense or rrf.")] = "hybrid",
    as_json: Json = False,
) -> None:
    """Find the best passages."""
    out.choose(as_json=as_json)
    found = Workbench().rag.search(
        index, query, k, path=path, tags=tag or [], since=since, until=until,
        settings={"mode": mode},
    )  # fmt: skip
    if out.format is not Format.TABLE:
        out.json(dataclasses.asdict(found))
        return
    for number, hit in enumerate(found.hits, 1):
        words = "-" if hit.bm25 is None else f"{hit.bm25:.2f}"
        out.line(f"{number}. {hit.place}")
        out.line(f"   score {hit.score:.3f}  bm25 {words}  cosine {hit.cosine:.3f}")
        out.line("   " + " ".join(hit.text.split())[:300])
    for warning in found.warnings:
        out.say(f"warning: {warning}")
    if not found.hits:
        out.say("nothing found")
