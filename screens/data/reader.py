"""Datasets read in a process of their own: ``python -m screens.data.reader WHAT REF``.

Delta Lake, Arrow and DuckDB hold 200 MB where they are imported, and keep them; the screens' whole
budget is 80. One JSON value is printed; an error as the command line prints it, with status 1.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from engine.errors import ModelOpsError, NotFound

if TYPE_CHECKING:
    from engine.api import Workbench

#: Rows of a page.
PAGE = 50


def read(what: str, refs: list[str]) -> Any:
    """The answer as JSON values.

    Args:
        what: ``list``, ``show`` (versions and a page of rows), ``columns``, or ``pins`` (signed
            versions, and what was made from them).
        refs: none for ``list``, else the version, and for ``show`` the first row, from 0.
    """
    from engine.api import Workbench

    data = Workbench().data
    if what == "list":
        return [dataclasses.asdict(view) for view in data.list()]
    ref, *more = refs
    if what == "pins":
        return _pins(Workbench(), ref)
    if what == "columns":
        return [dataclasses.asdict(column) for column in data.statistics(ref)]
    page = data.rows(ref, int(more[0]) if more else 0, PAGE)
    return {
        "versions": [dataclasses.asdict(version) for version in data.versions(page.name)],
        "columns": page.columns,
        "rows": page.rows,
        "total": page.total,
    }


def _pins(workbench: Workbench, name: str) -> dict[str, Any]:
    """Signed versions of a dataset, newest first, and artifacts that were made from them."""
    signed = [v for v in workbench.data.versions(name) if v.manifest]
    used: dict[str, None] = {}
    for version in signed:
        try:
            nodes = workbench.artifacts.lineage(str(version.manifest), up=False)
        except NotFound:
            continue  # the registry was begun anew since
        for node in nodes:
            if node.view is not None and not (
                node.view.name == name and node.view.artifact_type == "dataset"
            ):
                used[f"{node.view.name}@{node.view.version} ({node.view.artifact_type})"] = None
    return {"signed": [v.version for v in signed], "used": list(used)}


def main() -> int:
    """Print the answer; 1 after an error."""
    try:
        answer, code = read(sys.argv[1], sys.argv[2:]), 0
    except ModelOpsError as error:
        told = {"what": error.what, "why": error.why, "hint": error.hint}
        answer, code = {"error": told}, 1
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
