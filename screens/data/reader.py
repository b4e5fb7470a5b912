"""Datasets read in a process of their own: ``python -m screens.data.reader list|show|columns REF``.

Delta Lake, Arrow and DuckDB hold 200 MB where they are imported, and keep them; the screens' whole
budget is 80. One JSON value is printed; an error as the command line prints it, with status 1.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from engine.errors import ModelOpsError

#: Rows of a page.
PAGE = 50


def read(what: str, refs: list[str]) -> Any:
    """The answer as JSON values.

    Args:
        what: ``list``, ``show`` (versions and a page of rows) or ``columns``.
        refs: none for ``list``, else the version, and for ``show`` the first row, from 0.
    """
    from engine.api import Workbench

    data = Workbench().data
    if what == "list":
        return [dataclasses.asdict(view) for view in data.list()]
    ref, *more = refs
    if what == "columns":
        return [dataclasses.asdict(column) for column in data.statistics(ref)]
    page = data.rows(ref, int(more[0]) if more else 0, PAGE)
    return {
        "versions": [dataclasses.asdict(version) for version in data.versions(page.name)],
        "columns": page.columns,
        "rows": page.rows,
        "total": page.total,
    }


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
