"""What ``/metrics`` tells: Prometheus's text format, version 0.0.4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from engine.api import Workbench
from engine.types.jobs import ACTIVE_STATES

Sample = tuple[dict[str, str], float]


def exposition(bench: Workbench, figures: Any) -> str:
    """All figures as text.

    Args:
        bench: whose jobs, deployments and devices are counted.
        figures: the gateway's own: requests, failed, tokens, active.
    """
    lines: list[str] = []
    for name, kind, text, samples in _families(bench, figures):
        full = f"modelops_{name}"
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{_labels(labels)} {value:g}" for labels, value in samples]
    return "\n".join([*lines, ""])


def _families(bench: Workbench, figures: Any) -> Iterator[tuple[str, str, str, list[Sample]]]:
    yield "gateway_requests_total", "counter", "Requests to models.", [({}, figures.requests)]
    yield "gateway_failed_requests_total", "counter", "Of these, failed.", [({}, figures.failed)]
    yield "gateway_tokens_total", "counter", "Tokens sent to clients.", [({}, figures.tokens)]
    yield "gateway_active_requests", "gauge", "Requests being answered.", [({}, figures.active)]
    active = Counter(str(job.state) for job in bench.jobs.list(ACTIVE_STATES, limit=10_000).jobs)
    states = [({"state": str(state)}, float(active[str(state)])) for state in sorted(ACTIVE_STATES)]
    yield "jobs", "gauge", "Jobs that have not ended, by state.", states
    running = bench.system.engine_status().running
    yield "engine_up", "gauge", "1 while an engine runs jobs.", [({}, float(running))]
    deployed = bench.serving.list()
    yield from _deployments(deployed)
    devices = bench.system.devices()
    free = [({"device": d.lane, "name": d.name}, float(d.memory_free)) for d in devices]
    whole = [({"device": d.lane, "name": d.name}, float(d.memory_total)) for d in devices]
    yield "device_memory_free_bytes", "gauge", "Memory of a device that is free.", free
    yield "device_memory_total_bytes", "gauge", "Memory of a device.", whole


def _deployments(views: Any) -> Iterator[tuple[str, str, str, list[Sample]]]:
    def of(field: str) -> list[Sample]:
        return [({"deployment": view.name}, float(getattr(view, field) or 0)) for view in views]

    yield (
        "deployment_state",
        "gauge",
        "1 for the state a deployment is in.",
        [({"deployment": view.name, "state": str(view.state)}, 1.0) for view in views],
    )
    yield "deployment_requests_total", "counter", "Requests since its start.", of("requests")
    yield "deployment_failed_total", "counter", "Of these, failed.", of("failed")
    yield "deployment_queued", "gauge", "Requests that wait.", of("queued")
    yield "deployment_tokens_per_second", "gauge", "Tokens a second now.", of("tokens_per_s")
    yield "deployment_memory_bytes", "gauge", "What its servers hold.", of("memory_bytes")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    """As the format asks: backslash, quotation mark and line feed."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
