"""Long work with a face: how far, how fast, how long still; it can be stopped or left alone.

The work runs in a thread and writes what it knows into a ``Task``; the dialog reads that once a
second. Leaving the dialog does not stop the work, and the key that started it shows it again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.errors import ModelOpsError
from screens.text import ASCII, UNICODE, Glyphs, Line, bar, duration, number, printable, size
from screens.widgets.text_pane import TextPane

#: Seconds between two looks at the work.
LOOK_EVERY_S = 1.0
#: Looks that the rate is measured over.
RATE_OVER = 10


class Stopped(ModelOpsError):
    """The person stopped the work."""

    code = "stopped"


class Task:
    """What long work tells of itself; written by its threads, read by the dialog.

    Args:
        title: what is done, to what.
        stopped_means: what is true when it was stopped.
        on_stop: what ends the work at once, where it can't look at ``stopping`` by itself.
        unit: what is counted; empty: bytes.
    """

    def __init__(
        self,
        title: str,
        stopped_means: str = "",
        on_stop: Callable[[], None] | None = None,
        unit: str = "",
    ) -> None:
        self.title, self.stopped_means = title, stopped_means
        self.phase, self.thing = "", ""
        self.done = self.total = 0
        """In ``unit``."""
        self.unit = unit
        self.over = False
        self.stopping = False
        self.watch: Callable[[], None] | None = None
        """Called before each look, by work that is looked at from outside."""
        self._on_stop = on_stop
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)
        self._lock = threading.Lock()

    def tell(self, phase: str, thing: str, done: int, total: int) -> None:
        """How far it is; raises ``Stopped`` in the work's own thread when it shall end."""
        with self._lock:
            self.phase, self.thing, self.total = phase, thing, total
            # uploads run beside each other: their reports may arrive out of order
            self.done = max(self.done, done)
        if self.stopping:
            raise Stopped(f"{self.title}: stopped", why=self.stopped_means)

    def stop(self) -> None:
        """Ask it to end."""
        self.stopping = True
        if self._on_stop is not None:
            self._on_stop()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def mark(self) -> None:
        """Remember how far it is now; the rate comes from these."""
        if self.watch is not None and not self.over:
            self.watch()
        self._marks.append((time.monotonic(), self.done))

    @property
    def rate(self) -> float | None:
        """Of its unit a second, over the last looks; None while unknown."""
        if len(self._marks) < 2:
            return None
        (before, had), (now, has) = self._marks[0], self._marks[-1]
        return (has - had) / (now - before) if now > before else None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the end at this rate; None while unknown."""
        rate = self.rate
        return (self.total - self.done) / rate if rate and self.total else None

    def lines(self, width: int, glyphs: Glyphs) -> list[Line]:
        """The bar, the figures, what is being worked on."""
        lines: list[Line] = []
        if self.total:
            share = self.done / self.total
            room = max(10, width - 6)
            lines.append([(bar(share, room, glyphs), "accent"), (f" {share:>4.0%}", "bold")])
            rate = f"{self._amount(self.rate)}/s" if self.rate is not None else "-"
            whole = f"{self._amount(self.total)} {self.unit}".rstrip()
            figures = f"{self._amount(self.done)} of {whole}   {rate}"
            left = self.eta_s
            lines.append([(figures, ""), (f"   {duration(left)} left" if left else "", "")])
        word = "stopping" if self.stopping else self.phase or "comparing"
        lines.append([(word, "warn" if self.stopping else "dim"), (f"  {self.thing}", "")])
        return [*lines, [(f"for {duration(self.elapsed_s)}", "dim")]]

    def _amount(self, count: float) -> str:
        if not self.unit:
            return size(count)
        return number(round(count)) if count >= 10 or count == int(count) else f"{count:.1f}"


class ProgressDialog(ModalScreen[None]):
    """Shows a task until it is over; ``x`` stops it, ``esc`` leaves it to itself."""

    BINDINGS = [  # noqa: RUF012
        Binding("x,ctrl+c", "stop", "stop"),
        Binding("escape,q,enter", "leave", "leave it running"),
    ]

    def __init__(self, task: Task) -> None:
        super().__init__()
        # Textual's widgets have a `task` of their own
        self.work = task

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(printable(self.work.title), classes="dialog-title", markup=False)
            yield TextPane(id="progress")
            yield Static(
                "x stops it      esc leaves it running (the same key shows it again)",
                classes="dialog-keys",
                markup=False,
            )

    def on_mount(self) -> None:
        self.query_one(TextPane).focus()
        self.look()
        self.set_interval(LOOK_EVERY_S, self.look)

    def look(self) -> None:
        """Show how far it is; leave when it is over."""
        if self.work.over:
            if self.is_current:
                self.dismiss(None)
            return
        self.work.mark()
        glyphs = ASCII if getattr(self.app, "ascii_only", False) else UNICODE
        self.query_one(TextPane).show(lambda width: self.work.lines(width, glyphs))

    def action_stop(self) -> None:
        """Ask the work to end; the dialog goes when it has."""
        self.work.stop()
        self.look()

    def action_leave(self) -> None:
        """The work goes on."""
        self.dismiss(None)
