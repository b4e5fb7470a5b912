"""Deployments: endpoint, health, requests/s, tokens/s, memory; start, stop, logs, a curl line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from engine.errors import MissingPart
from engine.types.serving import DeploymentState, DeploymentView
from screens.actions import bindings
from screens.detail_screen import DetailScreen
from screens.dialogs import ConfirmDialog, TextDialog
from screens.prose import fact_columns, heading, paragraph, table
from screens.text import Line, duration, size, wall_time
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

#: Seconds between looks while the screen is shown.
LOOK_EVERY = 2.0
_LOG_TAIL = 64 * 1024

_OVER = (DeploymentState.STOPPED, DeploymentState.FAILED)
_STATES = {
    DeploymentState.WAITING: ("○", "warn"),
    DeploymentState.STARTING: ("◐", "accent"),
    DeploymentState.READY: ("●", "good"),
    DeploymentState.ASLEEP: ("‖", "dim"),
    DeploymentState.RESTARTING: ("◐", "warn"),
    DeploymentState.STOPPING: ("◐", "warn"),
    DeploymentState.PAUSED: ("‖", "warn"),
    DeploymentState.STOPPED: ("–", "dim"),
    DeploymentState.FAILED: ("✗", "bad"),
}


class ServeScreen(DetailScreen):
    """Looks again while it is shown; a hidden one rests."""

    NAME = "serve"
    BINDINGS = bindings("serve")
    COLUMNS: ClassVar = (
        Column("name", 0, weight=2),
        Column("state", 12),
        Column("serves", 0, weight=2, drop=1),
        Column("req/s", 7, right=True, drop=3),
        Column("tok/s", 7, right=True),
        Column("p95", 8, right=True, drop=4),
        Column("memory", 9, right=True, drop=2),
        Column("backend", 10, drop=5),
    )
    PANES: ClassVar = (("overview", "Overview"), ("log", "Log"), ("curl", "curl"))

    def on_mount(self) -> None:
        self._timer = self.set_interval(LOOK_EVERY, self.action_reload)

    def on_screen_suspend(self) -> None:
        self._timer.pause()

    def on_screen_resume(self) -> None:
        self._timer.resume()

    def fetch(self) -> Sequence[Row]:
        try:
            serving = self.workbench.serving
        except ImportError as error:
            raise MissingPart("this installation can't serve models", str(error)) from error
        return [deployment_row(view) for view in serving.list()]

    def pane_lines(self, pane: str, item: DeploymentView) -> Build:
        if pane == "curl":
            text = curl_line(item)
            return lambda width: paragraph(text, width)
        if pane == "log":
            path = self.workbench.jobs.log_path(item.job_id)
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, path.stat().st_size - _LOG_TAIL))
                    tail = file.read().decode("utf-8", "replace").splitlines()
            except OSError:
                tail = ["nothing was written yet"]
            return lambda width: [[(line, "")] for line in tail]
        now = self.work_app.clock()
        return lambda width: overview_lines(item, now, width)

    def empty_lines(self, width: int) -> list[Line]:
        return [
            [("Nothing is served.", "bold")],
            [],
            *paragraph(
                "r serves a model of the registry, a file or the packaged small model behind an"
                " OpenAI-compatible address on this machine.",
                min(76, width),
            ),
        ]

    # -- actions ----------------------------------------------------------------------------------

    def action_start_deployment(self) -> None:
        """Start a stopped one again; else ask what to serve."""
        view: DeploymentView | None = self.item
        if view is not None and view.state in _OVER:
            work = partial(self.workbench.serving.restart, view.name)
            self.in_thread("start", work, lambda _: self.action_reload())
            self.say(f"{view.name} starts again")
            return
        self.action_new_deployment()

    def action_new_deployment(self) -> None:
        """Ask what to serve."""

        def named(ref: str) -> None:
            def done(view: Any) -> None:
                self.say(f"{view.name} starts at {view.url}")
                self.action_reload()

            self.in_thread("start", partial(self.workbench.serving.start, ref), done)

        hint = "name@stage follows the stage; a file or smollm2-135m-instruct works too"
        self.ask_line("Serve what?", hint, named, "smollm2-135m-instruct")

    def action_stop_deployment(self) -> None:
        view: DeploymentView | None = self.item
        if view is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                work = partial(self.workbench.serving.stop, view.name)
                self.in_thread("stop", work, lambda _: self.action_reload())

        told = f"Requests to {view.url} fail from then on."
        self.app.push_screen(ConfirmDialog(f"Stop {view.name} ({view.ref})?", told), answered)

    def action_roll_back(self) -> None:
        """The version before, and stay with it."""
        view: DeploymentView | None = self.item
        if view is None:
            return
        if not view.previous:
            self.say(f"{view.name} has served one version only")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                work = partial(self.workbench.serving.rollback, view.name)
                self.in_thread("rollback", work, lambda _: self.action_reload())

        told = f"It serves {view.previous[0].name} again and stays with it (pinned)."
        self.app.push_screen(ConfirmDialog(f"Roll {view.name} back?", told), answered)

    def action_remove_deployment(self) -> None:
        """Forget a stopped one."""
        view: DeploymentView | None = self.item
        if view is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                work = partial(self.workbench.serving.remove, view.name)
                self.in_thread("remove", work, lambda _: self.action_reload())

        told = "Its address and key are forgotten; the model stays in the registry."
        self.app.push_screen(ConfirmDialog(f"Forget {view.name}?", told), answered)

    def action_show_curl(self) -> None:
        if self.item is not None:
            lines = paragraph(curl_line(self.item), 90)
            self.app.push_screen(TextDialog(f"Ask {self.item.name}", lines))

    def command_twin(self) -> str:
        if self.item is None:
            return "modelops-tui serve list"
        word = "log" if self.deck.current == "log" else "show"
        return f"modelops-tui serve {word} {self.item.name}"


def deployment_row(view: DeploymentView) -> Row:
    """A deployment as a row; where it waits or failed, the reason stands for what it serves."""
    glyph, style = _STATES[view.state]
    serves = view.current.name if view.current else view.ref
    told = (view.reason, style) if view.reason and view.current is None else (serves, "")
    p95 = view.latency_ms.get("p95")
    return Row(
        view.name,
        (
            (view.name, "bold"),
            (f"{glyph} {view.state}", style),
            told,
            (f"{view.requests_per_s:.1f}", ""),
            (f"{view.tokens_per_s:.0f}", ""),
            (f"{p95:.0f} ms" if p95 is not None else "", "dim"),
            (size(view.memory_bytes) if view.memory_bytes else "", "dim"),
            (view.backend, "dim"),
        ),
        view,
    )


def overview_lines(view: DeploymentView, now: float, width: int) -> list[Line]:
    """Where it answers, how it does, what it served before."""
    glyph, style = _STATES[view.state]
    lines: list[Line] = [[(f"{glyph} {view.state}", style), (f"  {view.name}", "bold")]]
    if view.reason:
        lines += paragraph(view.reason, width, "warn")
    lines.append([("address        ", "dim"), (view.url, "key")])
    lines += fact_columns(
        [
            ("follows", view.ref + (" (pinned)" if view.pinned else "")),
            ("serves", view.current.name if view.current else None),
            ("backend", view.backend),
            ("task", view.task),
            ("context", view.context or None),
            ("key", view.key_file or "none asked"),
            ("up", duration(now - view.started) if view.started else None),
            ("restarts", view.restarts or None),
            ("memory", size(view.memory_bytes) if view.memory_bytes else None),
            ("held for it", size(view.share_bytes) if view.share_bytes else None),
            ("requests", view.requests),
            ("failed", view.failed or None),
            ("now", f"{view.active} active, {view.queued} queued"),
            ("tokens/s", f"{view.tokens_per_s:.1f}"),
            ("adapters", ", ".join(view.adapters)),
        ],
        width,
    )
    rows = [
        (name, *(values.get(p) for p in ("p50", "p95", "p99")))
        for name, values in (("first byte, ms", view.first_byte_ms), ("whole, ms", view.latency_ms))
        if values
    ]
    if rows:
        lines += [[], *table(("latency", "p50", "p95", "p99"), rows, width, "dim")]
    if view.previous:
        lines += heading("Served before")
        lines += [[(f"{wall_time(v.since)}  {v.name}", "dim")] for v in view.previous]
    return lines


def curl_line(view: DeploymentView) -> str:
    """A request that can be pasted into a shell; the key is read from its file, never shown."""
    body = {"model": view.name, "messages": [{"role": "user", "content": "Hello"}]}
    key = f' -H "Authorization: Bearer $(cat {view.key_file})"' if view.key_file else ""
    return (
        f"curl {view.url}/chat/completions -H 'Content-Type: application/json'{key}"
        f" -d '{json.dumps(body)}'"
    )


SCREEN = ServeScreen
