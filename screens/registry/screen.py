"""Artifacts by type and stage: signature, lineage up and down, files, promotion, comparison."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from textual.timer import Timer

from engine.types.artifacts import ArtifactDetail, ArtifactView, LineageNode, VerifyReport
from screens.actions import bindings
from screens.dialogs import ConfirmDialog, TextDialog
from screens.prose import fact_columns, heading, paragraph, table
from screens.registry.promotion import PromotionActions, named, ref
from screens.registry.sync import SyncActions
from screens.registry.use import ModelUse
from screens.text import Line, ago, size, wall_time
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

#: Artifacts a page; the next one is read when the cursor nears the end.
PAGE = 500
#: Seconds without a key after which the index is asked for what the filter says.
FILTER_AFTER_S = 0.2
TYPES = (None, "model", "adapter", "quantized", "dataset", "index", "report", "base", "recipe")


class RegistryScreen(PromotionActions, SyncActions, ModelUse):
    """Looking never makes a registry; what changes it asks first and names the thing."""

    NAME = "registry"
    BINDINGS = bindings("registry")
    COLUMNS: ClassVar = (
        Column("name", 0, weight=2),
        Column("version", 9, drop=1),
        Column("type", 10, drop=2),
        Column("stages", 14),
        Column("size", 9, right=True, drop=3),
        Column("signed by", 10, drop=5),
        Column("tags", 0, drop=6),
        Column("age", 4, right=True, drop=4),
    )
    PANES: ClassVar = (
        ("overview", "Overview"),
        ("lineage", "Lineage"),
        ("files", "Files"),
        ("events", "History"),
        ("card", "Card"),
        ("verify", "Verify"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._type: str | None = None
        self._hidden = False
        self._more = False
        self._asked = ""
        """What the index was asked for; empty while the filter works on what is loaded."""
        self._filter_timer: Timer | None = None
        self._read_whole: dict[str, VerifyReport] = {}
        """What ``v`` found, by manifest."""

    @property
    def heading(self) -> str:
        return f"Registry: {self._type}" if self._type else "Registry"

    def fetch(self) -> Sequence[Row]:
        return self._page(self._asked, None)

    def _page(self, text: str, before: str | None) -> list[Row]:
        """One page of rows (in a thread), from the newest or from below an artifact."""
        now = self.work_app.clock()
        views = self.workbench.artifacts.list(
            artifact_type=self._type,
            include_runs=self._hidden,
            text=text or None,
            limit=PAGE,
            before=before,
        )
        return [artifact_row(view, now) for view in views]

    def _take_rows(self, rows: Sequence[Row]) -> None:
        self._more = len(rows) == PAGE
        super()._take_rows(rows)
        if self._more and self.filter_text != self._asked:
            self._ask_index()  # it fitted into one page when the filter was written

    def on_paged_table_near_end(self) -> None:
        if self._more and self.rows:
            self._more = False  # until the page is there
            work = partial(self._page, self._asked, self.rows[-1].key)
            self.in_thread("list", work, self._take_page)

    def _take_page(self, rows: Sequence[Row]) -> None:
        self._more = len(rows) == PAGE
        self.rows = (*self.rows, *rows)
        self._show_rows()

    def apply_filter(self, text: str) -> None:
        """Among what is loaded where that is all; else the index is asked, after a short rest."""
        if not self._more and not self._asked and len(self.rows) < PAGE:
            super().apply_filter(text)
            return
        self.filter_text = text
        self.show_crumbs()
        if self._filter_timer is not None:
            self._filter_timer.stop()
        self._filter_timer = self.set_timer(FILTER_AFTER_S, self._ask_index)

    def _ask_index(self) -> None:
        self._asked = self.filter_text
        self.action_reload()

    def _matching(self) -> Sequence[Row]:
        return self.rows if self._asked else super()._matching()

    @property
    def counted(self) -> str:
        return f"{len(self.rows)}{'+' if self._more else ''}"

    def pane_lines(self, pane: str, item: ArtifactView) -> Build:
        artifacts = self.workbench.artifacts
        if pane == "lineage":
            up = artifacts.lineage(item.manifest)
            down = artifacts.lineage(item.manifest, up=False)
            return lambda width: lineage_lines(item, up, down)
        if pane == "verify":
            report = artifacts.verify(item.manifest)
            if report.ok:  # nothing changed since: a full reading of this session still holds
                report = self._read_whole.get(item.manifest, report)
            return lambda width: [
                [("✓ verified", "good") if report.ok else ("✗ not what was signed", "bad")],
                *(line for p in report.problems for line in paragraph(p, width, "bad")),
                [],
                *fact_columns(
                    [
                        ("files", report.files),
                        ("size", size(report.size_bytes)),
                        ("every byte read", "yes" if report.deep else "no: v reads every byte"),
                        ("signed by", ", ".join(report.signed_by)),
                        ("took", f"{report.seconds:.2f} s"),
                    ],
                    width,
                ),
            ]
        detail = artifacts.show(item.manifest)
        if pane == "files":
            return lambda width: table(
                ("file", "size", "type", "sha256"),
                [(f.path, size(f.size), f.media_type, f.sha256[:16]) for f in detail.files],
                width,
                "key",
            )
        if pane == "events":
            return lambda width: table(
                ("time", "who", "what", "verdict"),
                [(e.time[:19], e.who, e.text, e.verdict) for e in detail.events],
                width,
            )
        if pane == "card":
            text = detail.card or "This artifact has no card."
            return lambda width: paragraph(text, width)
        return lambda width: overview_lines(detail, width)

    def empty_lines(self, width: int) -> list[Line]:
        if self._type or self._hidden:
            return [[(f"No artifact of type {self._type}. t goes to the next type.", "")]]
        return [
            [("The registry is empty.", "bold")],
            [],
            *paragraph(
                "A finished job whose recipe has a register step publishes here, signed."
                " H shows the outputs of steps too; `modelops-tui models add` publishes files of"
                " your own.",
                min(76, width),
            ),
        ]

    # -- actions ----------------------------------------------------------------------------------

    def action_next_type(self) -> None:
        self._type = TYPES[(TYPES.index(self._type) + 1) % len(TYPES)]
        self.action_reload()

    def action_show_hidden(self) -> None:
        self._hidden = not self._hidden
        self.say("outputs of steps are shown" if self._hidden else "outputs of steps are hidden")
        self.action_reload()

    def action_verify(self) -> None:
        """Every byte again, whatever was cached."""
        if self.item is None:
            return
        view: ArtifactView = self.item

        def done(report: Any) -> None:
            told = "verified, every byte" if report.ok else "; ".join(report.problems)
            self.say(f"{named(view)}: {told}")
            self._read_whole[view.manifest] = report
            self.load_pane()

        self.in_thread(
            "verify", partial(self.workbench.artifacts.verify, view.manifest, True), done
        )
        self.say(f"reading {size(view.size_bytes)}")

    def action_compare(self) -> None:
        rows = [row for row in self.table.rows if row.key in self.table.marked]
        if len(rows) != 2:
            self.say("select two artifacts with space first")
            return
        left, right = (row.item.manifest for row in rows)

        def done(view: Any) -> None:
            self.app.push_screen(
                TextDialog(f"{named(view.left)} and {named(view.right)}", compare_lines(view))
            )

        self.in_thread("compare", partial(self.workbench.artifacts.compare, left, right), done)

    def action_yank(self) -> None:
        view: ArtifactView | None = self.item
        if view is None:
            return
        undo = view.yanked

        def answered(yes: bool | None) -> None:
            if yes:
                work = partial(self.workbench.artifacts.yank, view.manifest, undo=undo)
                self.in_thread("yank", work, lambda _: self.action_reload())

        question = f"{'Take back the yank of' if undo else 'Yank'} {named(view)}?"
        told = "It stays where it is; names pass over a yanked version and everyone is warned."
        self.app.push_screen(ConfirmDialog(question, told), answered)

    def command_twin(self) -> str:
        view: ArtifactView | None = self.item
        if view is None:
            return "modelops-tui models list"
        word = {"lineage": "lineage", "verify": "verify"}.get(self.deck.current, "show")
        return f"modelops-tui models {word} {ref(view)}"


def artifact_row(view: ArtifactView, now: float) -> Row:
    """An artifact as a row; a yanked or partial one says so."""
    flag = " (yanked)" if view.yanked else " (partial)" if view.partial else ""
    return Row(
        view.manifest,
        (
            (view.name + flag, "warn" if flag else "bold"),
            (view.version, ""),
            (view.artifact_type, "dim"),
            (" ".join(view.stages), "accent"),
            (size(view.size_bytes), "dim"),
            (view.signed_by[:10], "dim"),
            (" ".join(view.tags), "dim"),
            (ago(view.created, now), "dim"),
        ),
        view,
        (view.name, view.version, view.artifact_type, "", view.size_bytes, "", "", -view.created),
    )


def overview_lines(detail: ArtifactDetail, width: int) -> list[Line]:
    """What it is, who signed it, its figures, where it comes from."""
    view = detail.view
    lines: list[Line] = [[(view.name, "bold"), (f"@{view.version}  {view.artifact_type}", "dim")]]
    if view.yanked:
        lines += paragraph(f"yanked: {view.yank_reason or 'no reason given'}", width, "warn")
    lines += fact_columns(
        [
            ("stages", " ".join(view.stages)),
            ("tags", " ".join(view.tags)),
            ("made", wall_time(view.created)),
            ("size", f"{size(view.size_bytes)} in {view.files} files"),
            ("licence", view.license),
            ("pickles", "yes: never to prod" if view.pickles else None),
            ("scan", detail.scan),
            *view.run.items(),
        ],
        width,
    )
    lines.append([("manifest       ", "dim"), (view.manifest, "")])
    if detail.license_note:
        lines += paragraph(detail.license_note, width, "warn")
    lines += heading("Signatures")
    for item in detail.signatures:
        style = "good" if item.state == "valid" else "bad"
        text = f"  {item.owner or item.key}  {item.role}  {item.fingerprint}"
        lines.append([(item.state, style), (text, "")])
    if view.metrics:
        lines += heading("Figures")
        lines += fact_columns(view.metrics.items(), width)
    if detail.parents:
        lines += heading("Made from")
        for relation, parent in detail.parents:
            name = parent if isinstance(parent, str) else ref(parent)
            lines.append([(f"{relation:<14} ", "dim"), (name, "")])
    return lines


def lineage_lines(
    view: ArtifactView, up: Sequence[LineageNode], down: Sequence[LineageNode]
) -> list[Line]:
    """Ancestors above, descendants below, the artifact itself between them."""
    lines: list[Line] = []
    for node in reversed(up):
        lines.append(_node(node, "▲"))
    lines.append([("● ", "accent"), (ref(view), "bold"), (f"  {view.artifact_type}", "dim")])
    for node in down:
        lines.append(_node(node, "▼"))
    if not up and not down:
        lines.append([("nothing is known of where it comes from or what came of it", "dim")])
    return lines


def _node(node: LineageNode, glyph: str) -> Line:
    indent = "  " * node.depth
    name = ref(node.view) if node.view else f"{node.manifest[:19]} (not in this registry)"
    kind = f"  {node.view.artifact_type}" if node.view else ""
    return [(f"{indent}{glyph} ", "dim"), (f"{node.relation} ", "dim"), (name, ""), (kind, "dim")]


def compare_lines(view: Any) -> list[Line]:
    """Figures with their difference, facts and files side by side."""
    rows = [
        (name, left, right, right - left if left is not None and right is not None else None)
        for name, left, right in view.metrics
    ]
    lines = table(("figure", "first", "second", "difference"), rows, 90, "key")
    lines += heading("Facts")
    lines += table(("", "first", "second"), view.facts, 90, "key")
    lines += heading("Files")
    lines += table(
        ("file", "first", "second", "bytes"),
        [(p, size(a), size(b), "same" if same else "differ") for p, a, b, same in view.files],
        90,
        "key",
    )
    return lines


SCREEN = RegistryScreen
