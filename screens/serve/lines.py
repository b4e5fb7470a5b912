"""What the Serve screen shows of a deployment: its row, its overview, a curl line."""

from __future__ import annotations

import json

from engine.types.serving import DeploymentState, DeploymentView
from screens.prose import fact_columns, heading, paragraph, table
from screens.text import Line, duration, size, wall_time
from screens.widgets.paged_table import Row

OVER = (DeploymentState.STOPPED, DeploymentState.FAILED)
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
    gone = view.state in (*OVER, DeploymentState.PAUSED)
    lines.append([("address        ", "dim"), (view.url, "key")])
    lines += fact_columns(
        [
            ("follows", view.ref + (" (pinned)" if view.pinned else "")),
            ("serves", view.current.name if view.current else None),
            ("backend", view.backend),
            ("task", view.task),
            ("context", view.context or None),
            ("key", view.key_file or "none asked"),
            ("up", duration(now - view.started) if view.started and not gone else None),
            ("restarts", view.restarts or None),
            ("memory", size(view.memory_bytes) if view.memory_bytes else None),
            ("held for it", size(view.share_bytes) if view.share_bytes and not gone else None),
            ("requests", view.requests),
            ("failed", view.failed or None),
            ("now", None if gone else f"{view.active} active, {view.queued} queued"),
            ("tokens/s", None if gone else f"{view.tokens_per_s:.1f}"),
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
