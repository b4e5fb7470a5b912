"""``modelops-tui data kept``: rows kept in chats, until they are a version of a dataset."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from engine.api import Workbench
from engine.errors import BadInput
from modelops_tui.cli.output import Format, out


def command(
    name: Annotated[
        str | None, typer.Argument(help="Dataset the rows were kept for (default: all).")
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add the rows to the dataset, as a new signed version.")
    ] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Let the rows go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Rows kept in chats that are in no version yet: list, show, add or discard them."""
    out.choose(as_json=as_json)
    if add and discard:
        raise BadInput("--add and --discard are two different ends")
    if discard and name is None:
        raise BadInput("--discard needs the dataset's name")
    kept = Workbench().kept
    names = [name] if name is not None else [k.dataset for k in kept.list()]
    if add:
        made = []
        for dataset in names:
            version = kept.add(dataset)
            made.append(dataclasses.asdict(version))
            out.say(f"{dataset}@{version.version}: {version.rows} rows")
        if not names:
            out.say("no rows wait")
        if out.format is not Format.TABLE:
            out.json(made)
    elif discard:
        count = kept.discard(names[0])
        out.record({"dataset": names[0], "discarded": count})
    elif name is not None:
        rows = kept.rows(name)
        if out.format is not Format.TABLE:
            out.json(rows)
            return
        for row in rows:
            out.line(json.dumps(row, ensure_ascii=False))
    else:
        out.rows(
            ("dataset", "rows"),
            [dataclasses.asdict(k) for k in kept.list()],
            empty="no rows wait: S, a and b on the Chat screen and `chat --dataset` keep some",
        )
