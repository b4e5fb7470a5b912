"""Deployments: endpoint, health, requests/s, tokens/s, memory; start, stop, logs, a curl line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from engine.errors import MissingPart
from engine.types.serving import DeploymentView
from screens.actions import bindings
from screens.prose import paragraph
from screens.serve.lines import curl_line, deployment_row, overview_lines
from screens.serve.verbs import DeploymentVerbs
from screens.text import Line
from screens.widgets.paged_table import Column, Row
from screens.widgets.text_pane import Build

#: Seconds between looks while the screen is shown.
LOOK_EVERY = 2.0
_LOG_TAIL = 64 * 1024


class ServeScreen(DeploymentVerbs):
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
            # one line, whatever the width: it is copied
            return lambda _: [[(text, "")]]
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

    def command_twin(self) -> str:
        if self.item is None:
            return "modelops-tui serve list"
        word = "logs" if self.deck.current == "log" else "status"
        return shlex.join(["modelops-tui", "serve", word, self.item.name])


SCREEN = ServeScreen
