"""How values are written: states with glyph and word, times, sizes, and text made harmless.

Everything that a person sees passes ``printable``: names come from files, remotes and logs, and
none of them may move the cursor or turn the reading direction.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from engine.types.jobs import JobState

#: A piece of a line and the name of its style (see ``LineView.STYLES``).
Span = tuple[str, str]
Line = list[Span]


@dataclass(frozen=True)
class Glyphs:
    """The signs of a screen; ``ASCII`` is their twin for terminals that have no others."""

    queued: str = "○"
    running: str = "●"
    stopping: str = "◐"
    succeeded: str = "✓"
    failed: str = "✗"
    cancelled: str = "–"
    paused: str = "‖"
    mark: str = "▸"
    up: str = "▲"
    down: str = "▼"
    dot: str = "·"
    crumb: str = "›"
    full: str = "█"
    empty: str = "░"
    line: str = "─"
    bar: str = "│"
    more: str = "…"
    arrow: str = "→"

    def state(self, state: str) -> str:
        """The glyph of a job's or step's state."""
        return str(getattr(self, state, self.dot))


UNICODE = Glyphs()
ASCII = Glyphs(
    queued="o",
    running="*",
    stopping="%",
    succeeded="+",
    failed="x",
    cancelled="-",
    paused="=",
    mark=">",
    up="^",
    down="v",
    dot="-",
    crumb=">",
    full="#",
    empty=".",
    line="-",
    bar="|",
    more="~",
    arrow="->",
)

STATE_STYLES = {
    JobState.QUEUED: "dim",
    JobState.RUNNING: "accent",
    JobState.STOPPING: "warn",
    JobState.SUCCEEDED: "good",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "dim",
    JobState.PAUSED: "warn",
}


def printable(text: str) -> str:
    """``text`` on one line, with every control, bidi and unassigned character made visible."""
    if text.isprintable():
        return text
    out = []
    for char in text:
        if char.isprintable():
            out.append(char)
        elif char in "\n\t":
            out.append(" " if char == "\n" else "    ")
        elif unicodedata.category(char) == "Zs":
            out.append(" ")
        else:
            out.append("�" if char == "�" else f"\\u{ord(char):04x}")
    return "".join(out)


def state_span(state: str, glyphs: Glyphs) -> Span:
    """Glyph and word: a state is never told by colour alone."""
    style = STATE_STYLES.get(JobState(state), "") if state in set(JobState) else ""
    return (f"{glyphs.state(state)} {state}", style)


def duration(seconds: float | None) -> str:
    """``42s``, ``3m 05s``, ``2h 10m``, ``3d 4h``; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def ago(then: float | None, now: float) -> str:
    """How long ago, in one unit: ``12s``, ``5m``, ``3h``, ``9d``."""
    if then is None:
        return "-"
    seconds = max(0, round(now - then))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size(value: float | None) -> str:
    """Bytes in decimal units: ``93.1 MB``; ``-`` for None."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def number(value: object) -> str:
    """A figure as a table shows it; text and None pass through."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value.is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    if value and (abs(value) < 0.001 or abs(value) >= 1e7):
        return f"{value:.3g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.1f}"


def bar(fraction: float, width: int, glyphs: Glyphs) -> str:
    """A progress bar of ``width`` cells."""
    full = round(max(0.0, min(1.0, fraction)) * width)
    return glyphs.full * full + glyphs.empty * (width - full)


def zoned_time(seconds: float | None) -> str:
    """A moment as local date and time with the name of its zone."""
    if seconds is None:
        return "-"
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def wall_time(seconds: float | None) -> str:
    """A moment as local date and time, to the second."""
    if seconds is None:
        return "-"
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
