"""``modelops-tui data``: datasets, their versions, and what is in them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.api import Workbench
from engine.errors import BadInput, NotFound
from modelops_tui.cli import kept
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Datasets: import, versions, SQL, reports.", no_args_is_help=True)

app.command("kept")(kept.command)

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Csv = Annotated[bool, typer.Option("--csv", help="Write CSV.")]
Key = Annotated[list[str] | None, typer.Option("--key", help="Column that identifies a row.")]
Force = Annotated[bool, typer.Option("--force", help="Do it all the same.")]
Name = Annotated[str, typer.Argument(help="Dataset.")]
Ref = Annotated[str, typer.Argument(help="NAME, NAME@v3, NAME@TAG or NAME@2026-01-31.")]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _version_row(version: Any) -> dict[str, Any]:
    row = dataclasses.asdict(version)
    row.update(version=f"v{version.version}", time=_when(version.time), tags=" ".join(version.tags))
    row["signed"] = (version.manifest or "")[:19] or None
    return row


def _made(version: Any) -> None:
    """A version that was made just now."""
    row = _version_row(version)
    del row["signed"]  # the manifest stands there in full
    if out.format is Format.TABLE:
        row = {name: value for name, value in row.items() if value not in ("", None)}
    out.record(row)


def _shown(value: Any) -> Any:
    """A value as a table shows it: nothing cut, lists and objects as JSON."""
    if isinstance(value, (dict, list, bool)):
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) and not value.is_integer() else value


def _data_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows of data; where a terminal is too narrow for them, that is told."""
    shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
    if out.table(columns, shown):
        out.say("long values are cut to fit the terminal: --json shows all")


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="JSONL, JSON, CSV, Parquet, text, a folder, or bundled data.")
    ],
    name: Annotated[str | None, typer.Argument(help="Dataset (default: the file's name).")] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the newest version.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Replace rows of known --key.")] = False,
    key: Key = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Kept with it.")] = "",
    sign: Annotated[bool, typer.Option(help="Publish the version as a signed artifact.")] = True,
    as_json: Json = False,
) -> None:
    """Make a new version of a dataset from a file (it replaces the rows, unless told otherwise)."""
    out.choose(as_json=as_json)
    mode = "merge" if merge else "append" if append else "overwrite"
    dataset = name or source.stem.lower().replace(" ", "-")
    version, fresh = Workbench().data.import_file(
        source, dataset, mode=mode, key=tuple(key or ()), message=message, publish=sign
    )
    if not fresh:
        out.say(f"{source} is what v{version.version} was made from: no new version")
    _made(version)


@app.command("list")
def list_(as_json: Json = False, as_csv: Csv = False) -> None:
    """Every dataset with its newest version."""
    out.choose(as_json=as_json, as_csv=as_csv)
    rows = [
        {
            **dataclasses.asdict(d),
            "latest": f"v{d.latest}",
            "updated": _when(d.updated),
            "tags": " ".join(f"{t}=v{v}" for t, v in sorted(d.tags.items())),
        }
        for d in Workbench().data.list()
    ]
    out.rows(
        ("name", "latest", "versions", "rows", "size_bytes", "updated", "tags"),
        rows,
        empty="no dataset yet: modelops-tui data import FILE NAME",
    )


@app.command()
def show(
    ref: Ref,
    rows: Annotated[int, typer.Option("--rows", "-n", help="Rows to show.", min=0)] = 5,
    offset: Annotated[int, typer.Option(help="First row to show.", min=0)] = 0,
    stats: Annotated[bool, typer.Option("--stats", help="Statistics of every column.")] = False,
    as_json: Json = False,
) -> None:
    """Versions, columns and a few rows of a dataset."""
    out.choose(as_json=as_json)
    data = Workbench().data
    version = data.version(ref)
    page = data.rows(ref, offset, rows)
    columns = data.statistics(ref) if stats else ()
    if out.format is not Format.TABLE:
        out.json(
            {
                "version": dataclasses.asdict(version),
                "versions": [dataclasses.asdict(v) for v in data.versions(version.name)],
                "schema": dict(page.schema),
                "statistics": [dataclasses.asdict(c) for c in columns],
                "rows": page.rows,
            }
        )
        return
    out.line(f"{version.name} v{version.version}: {version.rows} rows, {version.size_bytes} bytes")
    out.line("columns: " + ", ".join(f"{name} {kind}" for name, kind in page.schema))
    versions = [_version_row(v) for v in data.versions(version.name)]
    names = ["version", "time", "operation", "rows", "tags", "signed", "source"]
    if any(row["message"] for row in versions):
        names.append("message")
    out.rows(names, versions)
    if columns:
        out.line()
        names = ["name", "type", "nulls", "distinct", "minimum", "maximum", "mean"]
        _data_table(names, [dataclasses.asdict(c) for c in columns])
    if page.rows:
        out.line()
        _data_table(page.columns, page.rows)
        last = offset + len(page.rows)
        out.say(f"rows {offset + 1} to {last} of {page.total}: --rows and --offset show others")


@app.command()
def diff(
    name: Name,
    old: Annotated[str, typer.Argument(help="Version, tag or date.")],
    new: Annotated[str, typer.Argument(help="Version, tag or date.")] = "latest",
    key: Key = None,
    rows: Annotated[int, typer.Option("--rows", "-n", help="Rows of each kind.", min=0)] = 5,
    offset: Annotated[int, typer.Option(help="First of them, of each kind.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """What changed between two versions."""
    out.choose(as_json=as_json)
    data = Workbench().data
    found = data.diff(name, old, new, tuple(key or ()), limit=rows, offset=offset)
    if out.format is not Format.TABLE:
        out.record(dataclasses.asdict(found))
        return
    changed = f", {found.changed} changed" if found.key else ""
    out.line(f"v{found.old} -> v{found.new}: {found.added} added, {found.removed} removed{changed}")
    for sign, names in (("+", found.columns_added), ("-", found.columns_removed)):
        for column in names:
            out.line(f"{sign} column {column}")
    for column, before, after in found.types_changed:
        out.line(f"~ column {column}: {before} -> {after}")
    for pair in found.changed_rows:
        key_text = " ".join(f"{n}={_text(v)}" for n, v in pair["key"].items())
        values = (f"{n}: {_text(a)} -> {_text(b)}" for n, (a, b) in pair["changes"].items())
        out.line(f"~ {key_text}  {'; '.join(values)}")
    for sign, some in (("-", found.removed_rows), ("+", found.added_rows)):
        for one in some:
            out.line(f"{sign} {_text(one)}")
    shown = len(found.changed_rows) + len(found.removed_rows) + len(found.added_rows)
    whole = found.changed + found.removed + found.added
    if shown < whole:
        out.say(f"{shown} of {whole} are shown: --rows and --offset show others")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@app.command()
def restore(
    ref: Ref,
    sign: Annotated[bool, typer.Option(help="Publish the version as a signed artifact.")] = True,
    as_json: Json = False,
) -> None:
    """Make a new version with the rows of an older one."""
    out.choose(as_json=as_json)
    _made(Workbench().data.restore(ref, publish=sign))


@app.command()
def sign(ref: Ref, as_json: Json = False) -> None:
    """Publish a version that was made with --no-sign as a signed artifact."""
    out.choose(as_json=as_json)
    data = Workbench().data
    version = data.version(ref)
    manifest = data.publish(f"{version.name}@v{version.version}")
    if out.format is not Format.TABLE:
        out.json({"name": version.name, "version": f"v{version.version}", "manifest": manifest})
        return
    out.say(f"{version.name}@{version.version} is signed: {manifest}")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='For example: select count(*) from "tickets@v3"')],
    limit: Annotated[int, typer.Option(help="At most this many rows.", min=1)] = 1_000,
    into: Annotated[
        str, typer.Option("--into", help="Keep all its rows as a new version of this dataset.")
    ] = "",
    append: Annotated[bool, typer.Option("--append", help="With --into: add the rows.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Query datasets, jobs, steps, attempts, metrics and artifacts (DuckDB; it only reads)."""
    out.choose(as_json=as_json, as_csv=as_csv)
    if append and not into:
        raise BadInput("--append needs --into NAME")
    if into:
        _made(Workbench().data.sql_into(query, into, append=append))
        return
    found = Workbench().data.sql(query, limit)
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    if out.format is Format.TABLE and rows:
        _data_table(found.columns, rows)
    else:
        out.rows(found.columns, rows, empty="no row")
    if found.truncated:
        out.say(f"only the first {limit} rows: --limit shows more")


@app.command()
def export(
    ref: Ref,
    target: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a version to a file."""
    out.choose(as_json=as_json)
    count = Workbench().data.export(ref, target, force=force)
    if out.format is not Format.TABLE:
        out.json({"ref": ref, "file": str(target), "rows": count})
        return
    out.say(f"{count} rows written to {target}")


@app.command()
def tag(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="TAG", help="For example: golden.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag instead.")] = False,
    as_json: Json = False,
) -> None:
    """Name a version; its files then survive a vacuum."""
    out.choose(as_json=as_json)
    data = Workbench().data
    dataset = ref.partition("@")[0]
    if delete:
        data.untag(dataset, name)
        told = f"the tag {name} of {dataset} is removed"
    else:
        data.tag(ref, name)
        told = f"{dataset}@{name} is v{data.version(f'{dataset}@{name}').version}"
    if out.format is not Format.TABLE:
        tags = next(d.tags for d in data.list() if d.name == dataset)
        out.json({"name": dataset, "tag": name, "deleted": delete, "tags": dict(tags)})
        return
    out.say(told)


@app.command()
def vacuum(
    name: Name,
    hours: Annotated[int, typer.Option("--older-than", help="Hours to keep.", min=0)] = 168,
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it, only tell.")] = False,
    as_json: Json = False,
) -> None:
    """Delete files that only old versions need (tagged and published versions keep theirs)."""
    out.choose(as_json=as_json)
    report = Workbench().data.vacuum(name, hours, dry_run=not apply)
    kept = {f"v{n}": why for n, why in report.kept.items()}
    if out.format is not Format.TABLE:
        found = {"files": report.files, "size_bytes": report.size_bytes}
        out.json({**found, "deleted": not report.dry_run, "kept": kept})
        return
    done = "can be deleted" if report.dry_run else "deleted"
    out.line(f"{report.files} files, {report.size_bytes} bytes: {done}")
    rows = [{"version": version, "kept because": why} for version, why in kept.items()]
    out.rows(("version", "kept because"), rows)
    if report.dry_run and report.files:
        out.say("nothing was deleted: --apply deletes")


@app.command()
def rm(name: Name, force: Force = False, as_json: Json = False) -> None:
    """Delete a dataset with all its versions."""
    out.choose(as_json=as_json)
    Workbench().data.remove(name, force=force)
    if out.format is not Format.TABLE:
        out.json({"name": name, "removed": True})
        return
    out.say(f"{name} is removed")


@app.command()
def check(
    ref: Annotated[str, typer.Argument(help="A file, NAME, NAME@VERSION or a bundled dataset.")],
    base: Annotated[str | None, typer.Option(help="Model whose tokenizer counts.")] = None,
    data_format: Annotated[str | None, typer.Option("--format", help="Row format.")] = None,
    eval_ref: Annotated[str | None, typer.Option("--eval", help="Held-out data.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens a row may have.", min=8)] = None,
    as_json: Json = False,
) -> None:
    """What training would do with the rows: truncated, unlearnable, duplicate, overlapping."""
    out.choose(as_json=as_json)
    events = Workbench().data.check(
        ref, base=base, format=data_format, eval=eval_ref, max_length=length
    )
    _show_report(_result(events))


@app.command()
def mask(
    ref: Annotated[str, typer.Argument(help="A file, NAME, NAME@VERSION or a bundled dataset.")],
    row: Annotated[int, typer.Option("--row", help="First row, from 1.", min=1)] = 1,
    count: Annotated[int, typer.Option("--count", "-n", help="Rows.", min=1)] = 1,
    base: Annotated[str | None, typer.Option(help="Model whose template applies.")] = None,
    data_format: Annotated[str | None, typer.Option("--format", help="Row format.")] = None,
    as_json: Json = False,
) -> None:
    """The text of rows as the model sees it, with what the loss counts between ‹ and ›."""
    out.choose(as_json=as_json)
    events = Workbench().data.mask(ref, start=row - 1, count=count, base=base, format=data_format)
    result = _result(events)
    if not result["rows"]:
        raise NotFound(f"{ref} has no row {row}")
    _show_masks(result)


def _result(events: Any) -> dict[str, Any]:
    """Narrate the events of a service action and return its result."""
    result: dict[str, Any] = {}
    for event in events:
        if "result" in event:
            result = event["result"]
        elif "done" in event:
            out.status(f"{event['done']} rows")
    out.status_end()
    return result


def _show_report(result: dict[str, Any]) -> None:
    if out.format is not Format.TABLE:
        out.json(result)
        return
    table = result["table"]
    out.line(str(table["title"]))
    columns = list(table["columns"])
    out.rows(columns, [dict(zip(columns, row, strict=True)) for row in table["rows"]])
    for note in table.get("notes", ()):
        out.line(str(note))
    for warning in result["warnings"]:
        out.say(f"warning: {warning}")


def _show_masks(result: dict[str, Any]) -> None:
    """The text of each row, with what the loss counts between ‹ and ›."""
    if out.format is not Format.TABLE:
        out.json(result)
        return
    for row in result["rows"]:
        if row["problem"]:
            out.line(f"row {row['number']}: {row['problem']}")
            continue
        text, learning = "", False
        for piece, learned in row["tokens"]:
            if learned != learning:
                text += "‹" if learned else "›"
                learning = learned
            text += piece
        counted = sum(1 for _, learned in row["tokens"] if learned)
        cut = ", cut" if row["cut"] else ""
        out.line(f"row {row['number']}: {counted} of {row['length']} tokens are learned{cut}")
        out.line(text + ("›" if learning else ""))
    out.say(f"between ‹ and ›: what the loss counts, for {result['base']}")
