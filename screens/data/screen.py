"""Datasets: versions, rows, columns, the data report, the loss mask token by token, SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from engine.types.data import DatasetView
from screens.actions import bindings
from screens.data.history import DataHistory
from screens.data.lines import column_lines, mask_lines, row_lines, version_table
from screens.prose import fact_columns, paragraph, report_tables
from screens.text import Line, ago, number, size
from screens.widgets.paged_table import Column, PagedTable, Row
from screens.widgets.text_pane import Build

#: Answers about datasets that are kept: those one goes back and forth between.
KEPT = 8
#: Rows of a page.
PAGE = 50
#: What comes with the program; shown beside one's own datasets.
BUNDLED = (
    ("house/train", "rows in the house style"),
    ("house/heldout", "their held-out split"),
    ("neutral", "a small neutral text"),
    ("mixed", "prose, code, talk, 23 languages"),
)


class DataScreen(DataHistory):
    """All that is read of datasets is read in other processes; nothing heavy is imported here."""

    NAME = "data"
    BINDINGS = bindings("data")
    COLUMNS: ClassVar = (
        Column("dataset", 0, weight=2),
        Column("version", 8, right=True),
        Column("rows", 10, right=True),
        Column("size", 10, right=True, drop=2),
        Column("tags", 0, drop=4),
        Column("changed", 8, right=True, drop=3),
    )
    PANES: ClassVar = (
        ("overview", "Versions"),
        ("rows", "Rows"),
        ("columns", "Columns"),
        ("report", "Report"),
        ("mask", "Loss mask"),
    )
    SLOW_PANES = frozenset({"report", "mask"})

    def __init__(self) -> None:
        super().__init__()
        self._mask_row = 0
        self._kept: dict[tuple[str, ...], Any] = {}

    def _asked(self, what: str, mark: str, *refs: str) -> Any:
        """The reader's answer, or the one it gave when ``mark`` was the same."""
        key = (what, mark, *refs)
        answer = self._kept.pop(key, None)
        if answer is None:
            answer = self.read_apart(what, *refs)
        self._kept[key] = answer
        for old in list(self._kept)[:-KEPT]:
            self._kept.pop(old, None)
        return answer

    def _own(self) -> list[DatasetView]:
        """One's own datasets; read again when a version or a tag came or went."""
        folder = self.workbench.paths.datasets
        marks = []
        for pattern in ("*/table/_delta_log", "*/meta.json"):
            for place in sorted(folder.glob(pattern)):
                with suppress(FileNotFoundError):  # removed just now
                    marks.append(f"{place}={place.stat().st_mtime_ns}")
        if not marks:
            return []
        return [DatasetView(**told) for told in self._asked("list", "\n".join(marks))]

    def is_slow(self, pane: str, item: Any) -> bool:
        return isinstance(item, DatasetView) or pane in self.SLOW_PANES

    def fetch(self) -> Sequence[Row]:
        now = self.work_app.clock()
        own = [
            Row(
                view.name,
                (
                    (view.name, "bold"),
                    (f"v{view.latest}", ""),
                    (number(view.rows), ""),
                    (size(view.size_bytes), "dim"),
                    (" ".join(f"{tag}=v{v}" for tag, v in view.tags.items()), "accent"),
                    (ago(view.updated, now), "dim"),
                ),
                view,
                (view.name, view.latest, view.rows, view.size_bytes, "", view.updated),
            )
            for view in self._own()
        ]
        bundled = [
            Row(name, ((name, ""), ("bundled", "dim"), ("", ""), ("", ""), (about, "dim")), name)
            for name, about in BUNDLED
        ]
        return [*own, *bundled]

    def pane_lines(self, pane: str, item: Any) -> Build:
        ref = self._ref(item) if isinstance(item, DatasetView) else str(item)
        if pane == "report":
            return self._report(ref)
        if pane == "mask":
            return self._mask(ref, self._mask_row)
        if not isinstance(item, DatasetView):
            return lambda width: paragraph(
                f"{ref} ({dict(BUNDLED)[ref]}) comes with the program. i imports a file as a"
                " dataset of your own, with versions, tags and a signature; tab shows the data"
                " report and the loss mask.",
                width,
            )
        mark = f"{item.latest} {item.updated} {item.tags}"
        if pane == "columns":
            columns = self._asked("columns", mark, ref)
            return lambda width: [[(ref, "dim")], *column_lines(columns, width)]
        shown = self._asked("show", mark, ref, str(self._offset))
        if pane == "rows":
            return partial(row_lines, {**shown, "ref": ref, "offset": self._offset})
        return lambda width: [
            *fact_columns([("source", item.source), ("columns", ", ".join(item.columns))], width),
            [],
            *version_table(shown["versions"], width),
            [],
            [(f"the other panes show {ref}; v chooses a version, a tag or a date", "dim")],
        ]

    def _report(self, ref: str) -> Build:
        result: dict[str, Any] = {}
        for event in self.workbench.data.check(ref):
            result = event.get("result") or result
        shown = result.get("table")
        tables = shown if isinstance(shown, list) else [shown] if shown else []
        warnings = [str(w) for w in result.get("warnings", ())]
        return lambda width: [
            *(line for w in warnings for line in paragraph(w, width, "warn")),
            *([[]] if warnings else []),
            *report_tables(tables, width),
        ]

    def _mask(self, ref: str, start: int) -> Build:
        result: dict[str, Any] = {}
        for event in self.workbench.data.mask(ref, start=start, count=1):
            result = event.get("result") or result
        rows = result.get("rows", ())
        if not rows:
            return lambda width: [[("there is no further row", "dim")]]
        return lambda width: mask_lines(rows[0], start, str(result.get("base", "")), width)

    def empty_lines(self, width: int) -> list[Line]:
        return paragraph("No dataset yet: i imports a file.", width)

    # -- actions ----------------------------------------------------------------------------------

    def action_import_data(self) -> None:
        if self.busy():
            return

        def named(path: str) -> None:
            try:
                source = Path(path).expanduser()
            except RuntimeError as error:  # ~nobody
                self.say(f"{path}: {error}")
                return
            self.ask_line(
                "Name of the dataset",
                "An existing name gets a new version.",
                partial(self.run_import, source),
                source.stem,
            )

        self.ask_line("File to import", "JSON, JSONL, CSV, Parquet or a folder of them", named)

    def action_check_data(self) -> None:
        self.deck.show("report")

    def action_loss_mask(self) -> None:
        self._mask_row = 0
        self.deck.show("mask")
        self.load_pane()

    def action_next_row(self) -> None:
        self._turn(1)

    def action_previous_row(self) -> None:
        self._turn(-1)

    def _turn(self, by: int) -> None:
        """To another row of the mask, or another page of rows."""
        if self.deck.current == "mask":
            self._mask_row = max(0, self._mask_row + by)
            self.load_pane()
        elif self.deck.current == "rows" and isinstance(self.item, DatasetView):
            # an older version may have more rows than the newest one
            self._offset = max(0, self._offset + by * PAGE)
            self.load_pane()

    def on_paged_table_moved(self, event: PagedTable.Moved) -> None:
        self._offset = 0
        super().on_paged_table_moved(event)

    def action_sql(self) -> None:
        if self.busy():
            return
        hint = "Read-only; tables: your datasets, jobs, steps, attempts, metrics, artifacts"
        self.ask_line("SQL", hint, self.run_sql, "select name, state from jobs limit 20")

    def command_twin(self) -> str:
        item = self.item
        ref = self._ref(item) if isinstance(item, DatasetView) else str(item or "")
        page = f" --rows {PAGE} --offset {self._offset}"
        twins: dict[str, Callable[[], str]] = {
            "report": lambda: f"data check {ref}",
            "mask": lambda: f"data mask {ref} --row {self._mask_row + 1}",
            "rows": lambda: f"data show {ref}{page}",
            "columns": lambda: f"data show {ref} --stats",
        }
        word = twins.get(self.deck.current, lambda: f"data show {ref}")() if ref else "data list"
        return f"modelops-tui {word}"


SCREEN = DataScreen
