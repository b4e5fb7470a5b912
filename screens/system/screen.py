"""The machine: devices and who holds them, the engine, the disk, the settings, the doctor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult

from engine.errors import ModelOpsError
from engine.types.artifacts import GcReport
from engine.types.system import Check, DeviceView, DiskUse, EngineStatus
from screens.actions import bindings
from screens.dialogs import ConfirmDialog, error_lines
from screens.prose import fact_columns, heading, paragraph, table
from screens.system.backends import BackendActions, backend_lines
from screens.text import UNICODE, Line, bar, duration, size
from screens.widgets.pane_deck import Pane, PaneDeck
from screens.widgets.text_pane import Build, TextPane

#: Seconds between looks at the devices while the screen is shown.
LOOK_EVERY = 3.0


class SystemScreen(BackendActions):
    """One deck of panes; the devices and the engine are looked at again while they are shown."""

    NAME = "system"
    BINDINGS = [*bindings("system"), *bindings("panes")]  # noqa: RUF012
    AUTO_FOCUS = "#machine"
    PANES: ClassVar = (
        ("machine", "Machine"),
        ("disk", "Disk"),
        ("settings", "Settings"),
        ("doctor", "Doctor"),
        ("backends", "Backends"),
    )

    def compose_body(self) -> ComposeResult:
        panes = [Pane(name, title, partial(TextPane, id=name)) for name, title in self.PANES]
        yield PaneDeck(panes, id="system")

    def on_mount(self) -> None:
        self._timer = self.set_interval(LOOK_EVERY, self._look)
        self.load_pane()

    def on_screen_suspend(self) -> None:
        self._timer.pause()

    def on_screen_resume(self) -> None:
        self._timer.resume()
        self.load_pane()

    @property
    def deck(self) -> PaneDeck:
        return self.query_one(PaneDeck)

    def first_list(self) -> Any:
        return self.deck.widget

    def _look(self) -> None:
        if self.deck.current == "machine":
            self.load_pane()

    def action_reload(self) -> None:
        self.load_pane()

    def load_pane(self) -> None:
        """Read what the shown pane needs, in a thread."""
        pane = self.deck.current
        readers: dict[str, Callable[[], Build]] = {
            "machine": self._machine,
            "disk": self._disk,
            "backends": self._backends,
            "settings": self._settings,
            "doctor": self._doctor,
        }

        def show(build: Build) -> None:
            widget = self.deck.pane(pane)
            if isinstance(widget, TextPane):
                widget.show(build)

        def failed(error: ModelOpsError) -> bool:
            show(lambda width: error_lines(error, width))
            return True

        self.top_bar.set_crumbs("System", pane.capitalize())
        self.in_thread("pane", readers[pane], show, failed)

    def on_pane_deck_shown(self) -> None:
        self.call_after_refresh(self.load_pane)

    def action_next_pane(self) -> None:
        self.deck.step(1)

    def action_previous_pane(self) -> None:
        self.deck.step(-1)

    # -- readers (in threads) ---------------------------------------------------------------------

    def _machine(self) -> Build:
        system = self.workbench.system
        status, devices = system.engine_status(), system.devices()
        now = self.work_app.clock()
        return lambda width: [
            *engine_lines(status, now, width),
            *(line for device in devices for line in device_lines(device, width)),
        ]

    def _disk(self) -> Build:
        uses = self.workbench.system.disk()
        return lambda width: disk_lines(uses, width)

    def _backends(self) -> Build:
        states = self.workbench.backends.list()
        return lambda width: backend_lines(states, width)

    def _settings(self) -> Build:
        views = self.workbench.system.setting_views()
        path = self.workbench.paths.config

        def build(width: int) -> list[Line]:
            lines: list[Line] = [[(str(path), "dim"), ("   e opens it in $EDITOR", "dim")], []]
            for view in views:
                value = view.value if isinstance(view.value, str) else repr(view.value)
                style = "bold" if view.is_set else ""
                lines.append([(f"{view.key:<26} ", "key"), (value, style)])
                if not view.is_set:
                    lines[-1].append(("  (default)", "dim"))
                lines += paragraph(view.description, width, "dim", "    ")
            return lines

        return build

    def _doctor(self) -> Build:
        checks = self.workbench.system.doctor()
        return lambda width: doctor_lines(checks, width)

    # -- actions ----------------------------------------------------------------------------------

    def action_run_doctor(self) -> None:
        if self.deck.current == "doctor":
            self.load_pane()
        self.deck.show("doctor")

    def action_free_space(self) -> None:
        """Tell what the registry holds in vain, ask, free it."""
        artifacts = self.workbench.artifacts
        needed = "Every blob is needed. d on the Jobs screen deletes ended jobs with checkpoints."
        if not artifacts.exists:
            self.say(needed)
            return

        def told(report: GcReport) -> None:
            if not report.blobs:
                self.say(needed)
                return
            count = f"{report.blobs} blob{'' if report.blobs == 1 else 's'}"
            young = "No artifact refers to them."
            if report.kept_young:
                young += f" {report.kept_young} younger than a day stay."
            question = f"Free {size(report.size_bytes)} in {count} of the registry?"
            self.app.push_screen(ConfirmDialog(question, young), answered)

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_thread("gc", partial(artifacts.gc, dry_run=False), freed)

        def freed(report: GcReport) -> None:
            self.say(f"freed {size(report.size_bytes)}")
            self.load_pane()

        self.deck.show("disk")
        self.in_thread("gc", artifacts.gc, told)

    def action_stop_engine(self) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.in_thread("engine", self.workbench.system.stop_engine, self._engine_told)

        told = "Running jobs go on; queued ones wait until an engine runs again."
        self.app.push_screen(ConfirmDialog("Stop the engine?", told), answered)

    def action_restart_engine(self) -> None:
        self.in_thread("engine", self.workbench.system.restart_engine, self._engine_told)
        self.say("replacing the engine; running jobs go on")

    def _engine_told(self, _: object) -> None:
        self.work_app.bridge.refresh()
        self.load_pane()

    def action_edit_settings(self) -> None:
        from screens.recipes.screen import edit_file

        path = self.workbench.paths.config
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            edit_file(self.app, path)
        except ModelOpsError as error:
            self.work_app.show_error(error)
        self.load_pane()

    def command_twin(self) -> str:
        twins = {
            "machine": "gpu list",
            "disk": "models gc",
            "backends": "backends list",
            "settings": "config show",
        }
        return f"modelops-tui {twins.get(self.deck.current, 'doctor')}"


def engine_lines(status: EngineStatus, now: float, width: int) -> list[Line]:
    """The engine, its lanes and who has each one's turn."""
    if not status.running:
        return [
            [("○ no engine runs", "warn"), ("   E starts it", "")],
            [(status.state_dir, "dim")],
        ]
    lines: list[Line] = [[("● the engine runs", "good"), (f"   version {status.version}", "dim")]]
    lines += fact_columns(
        [
            ("pid", str(status.pid)),
            ("up", duration(now - status.started) if status.started else None),
            ("memory", size(status.memory_bytes) if status.memory_bytes else None),
            ("CPU used", duration(status.cpu_seconds)),
            ("active jobs", status.active),
            ("queued jobs", status.queued),
        ],
        width,
    )
    lines.append([("state          ", "dim"), (status.state_dir, "")])
    rows = [(lane.name, lane.job_id or "free", ", ".join(lane.shares)) for lane in status.lanes]
    return [*lines, [], *table(("lane", "turn", "shares"), rows, width, "key")] if rows else lines


def device_lines(device: DeviceView, width: int) -> list[Line]:
    """A device: gauges of memory and load, and who holds the memory."""
    used = device.memory_total - device.memory_free
    share = used / device.memory_total if device.memory_total else 0.0
    style = "bad" if share > 0.95 else "warn" if share > 0.85 else "accent"
    lines = heading(f"{device.name}  ({device.lane})")
    told = f" {size(used)} of {size(device.memory_total)}, {size(device.memory_free)} free"
    lines.append([("memory  ", "dim"), (bar(share, 24, UNICODE), style), (told, "")])
    if device.utilization is not None:
        load = bar(device.utilization, 24, UNICODE)
        lines.append([("load    ", "dim"), (load, "accent"), (f" {device.utilization:.0%}", "")])
    if device.temperature_c is not None:
        power = f", {device.power_w:.0f} W" if device.power_w is not None else ""
        lines.append([("heat    ", "dim"), (f"{device.temperature_c:.0f} °C{power}", "")])
    for holder in device.holders:
        lines.append([("held by ", "dim"), (f"{size(holder.memory_bytes):>9}  {holder.label}", "")])
    return lines


def disk_lines(uses: tuple[DiskUse, ...], width: int) -> list[Line]:
    """What takes the space, largest first, and what frees it."""
    total = sum(use.bytes for use in uses)
    rows = [(use.name, size(use.bytes), use.note, use.path) for use in uses]
    return [
        [(f"{size(total)} in all", "bold")],
        [],
        *table(("what", "size", "note", "where"), rows, width, "key"),
        [],
        *paragraph(
            "To free space: d on the Jobs screen deletes an ended job with its checkpoints;"
            " f frees blobs of the registry that nothing refers to.",
            width,
            "dim",
        ),
    ]


def doctor_lines(checks: tuple[Check, ...], width: int) -> list[Line]:
    """One line a check; what to do under those that need it."""
    marks = {"ok": ("✓", "good"), "warning": ("▲", "warn"), "problem": ("✗", "bad")}
    lines: list[Line] = []
    for check in checks:
        glyph, style = marks.get(check.status, ("·", "dim"))
        lines.append([(f"{glyph} {check.status:<8} ", style), (f"{check.name:<18} ", "bold")])
        if len(check.detail) + 30 <= width:
            lines[-1].append((check.detail, ""))
        else:
            lines += paragraph(check.detail, width, "", " " * 11)
        if check.hint:
            lines += paragraph(f"hint: {check.hint}", width, "accent", " " * 11)
    return lines


SCREEN = SystemScreen
