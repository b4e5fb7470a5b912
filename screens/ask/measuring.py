"""Retrieval measured from the Ask screen: nDCG, recall, MRR with intervals, ways compared."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import ModelOpsError
from screens.ask.syncing import AskSync
from screens.dialogs import TextDialog
from screens.progress import ProgressDialog, Stopped, Task
from screens.prose import heading, paragraph, table
from screens.text import Line

_WAYS = ("hybrid", "bm25", "dense", "rrf")
#: Queries that a comparison names: those whose figures differ most.
_NAMED = 10


class AskMeasure(AskSync):
    """``M`` measures the chosen index on a folder with queries.jsonl and qrels.tsv."""

    measure_task: Task | None = None

    def action_measure_index(self) -> None:
        """Ask which questions, and which ways to search are compared."""
        item = self.item
        if item is None:
            self.say("there is no index to measure yet: u makes one")
            return
        if self.measure_task is not None and not self.measure_task.over:
            self.app.push_screen(ProgressDialog(self.measure_task))
            return

        def named(text: str) -> None:
            try:
                folder, *ways = shlex.split(text)
            except ValueError as error:
                self.say(f"{text}: {error}")
                return
            unknown = [way for way in ways if way not in _WAYS]
            if unknown:
                self.say(f"{unknown[0]!r} is no way to search: {', '.join(_WAYS)}")
                return
            self._measure(item.name, str(Path(folder).expanduser()), ways or ["hybrid", "bm25"])

        hint = (
            "A folder with queries.jsonl and qrels.tsv (`rag questions` makes one up); behind it"
            " the ways to compare: hybrid bm25 dense rrf"
        )
        self.ask_line(f"Measure {item.name} on which questions?", hint, named, f"{Path.cwd()}/")

    def _measure(self, index: str, folder: str, ways: list[str]) -> None:
        rag = type(self.workbench)(self.workbench.paths.root).rag
        task = Task(f"Measure {index} on {folder}", "Nothing was changed.", unit="queries")
        task.phase = "searching"
        self.measure_task = task

        def work() -> Mapping[str, Any]:
            result: Mapping[str, Any] = {}
            settings = {way: {"mode": way} for way in ways}
            try:
                for event in rag.evaluate(folder, index, configurations=settings):
                    result = event.get("result") or result
                    if "done" in event:
                        task.tell("searching", "", event["done"], event["total"])
            finally:
                task.over = True
                rag.close()
            return result

        def done(found: Mapping[str, Any]) -> None:
            dialog.look()
            self.app.push_screen(TextDialog(f"Retrieval of {index}", partial(measure_lines, found)))

        def failed(error: ModelOpsError) -> bool:
            dialog.look()
            if isinstance(error, Stopped):
                self.say(f"{error.what}. {error.why}")
            else:
                self.work_app.show_error(error)
            return True

        dialog = ProgressDialog(task)
        self.in_thread("measure", work, done, failed)
        self.app.push_screen(dialog)


def measure_lines(found: Mapping[str, Any], width: int) -> list[Line]:
    """Each way with its metrics and 95 % intervals; then the ways against the first."""
    runs = found["evaluations"]
    lines: list[Line] = []
    if any(run["questions"] == "generated" for run in runs):
        told = "Generated questions flatter: real ones may give other figures."
        lines += [*paragraph(told, width, "warn"), []]
    if missing := max(run["missing"] for run in runs):
        told = f"{missing} relevant documents are not in the index: not found, that is."
        lines += [*paragraph(told, width, "warn"), []]
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for metric, (mean, low, high) in run["metrics"].items():
            interval = f"{low:.3f} .. {high:.3f}"
            rows.append((run["name"], run["questions"], metric, f"{mean:.4f}", interval))
        speed = f"{run['latency_ms']['p50']:.1f}"
        rows.append((run["name"], run["questions"], "ms p50", speed, None))
    lines += table(("way", "questions", "metric", "mean", "95 %"), rows, width, "key")
    for pair in found["comparisons"]:
        lines += heading(f"{pair['b']} against {pair['a']}")
        told = (
            f"{pair['difference']:+.4f} {pair['metric']} (95 % {pair['low']:+.4f} .. "
            f"{pair['high']:+.4f}): {pair['better']} better, {pair['worse']} worse, "
            f"{pair['equal']} equal"
        )
        lines += paragraph(told, width)
        queries = [
            (q["text"], f"{q[pair['a']]:.3f}", f"{q[pair['b']]:.3f}", f"{q['difference']:+.3f}")
            for q in pair["queries"][:_NAMED]
        ]
        if queries:
            lines += [[], *table(("query", pair["a"], pair["b"], "change"), queries, width, "")]
    return lines
