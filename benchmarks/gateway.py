"""What the gateway costs: the same streams from a llama.cpp server, its front, and the gateway.

One deployment runs under a real engine, one gateway is started from the command line. Each round
asks all three places in turn for the same greedy text, so that whatever else the machine does hits
all of them. Bars: at most 5 % of the server's own tokens/s, at most 2 ms more to the first byte
(p50), and 100 streams at once without a loss.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import Conflict
from engine.serving.launch import free_port
from modelops_tui import Workstation
from modelops_tui.gateway.tokens import Tokens

ROUNDS = 15
FIRST_BYTES = 60
AT_ONCE = 100
#: model -> tokens a stream
MODELS = {"tiny (1.4 M, F16)": 220, "smollm2 (135 M, Q8_0)": 64}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Target:
    """A place that streams completions."""

    name: str
    port: int
    key: str
    rates: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Streamed:
    """One stream as a client saw it."""

    tokens: int
    first_s: float
    seconds: float
    whole: bool


def stream(target: Target, model: str, tokens: int) -> Streamed:
    """One request over a connection of its own, read as raw bytes."""
    body = json.dumps(
        {"model": model, "prompt": "Once upon a time", "max_tokens": tokens,
         "temperature": 0, "stream": True}
    ).encode()  # fmt: skip
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", target.port), timeout=600) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        raw.sendall(head.encode() + body)
        data, first = bytearray(), 0.0
        while True:
            piece = raw.recv(1 << 16)
            if not piece:
                break
            data += piece
            if not first and b'"text":' in data:
                first = time.perf_counter()
        ended = time.perf_counter()
    found = data.count(b'"text":')
    whole = b" 200 " in data[:20] and b"data: [DONE]" in data
    return Streamed(found, first - began, ended - began, whole)


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def parent(pid: int) -> int:
    """Its parent: the worker that holds the deployment's front."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def gateway(station: Workstation) -> Iterator[tuple[int, str, int]]:
    """A gateway of the command line; its port, a token and its process id."""
    secret, _ = Tokens(station.paths).add("benchmark", ["read"])
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "modelops_tui", "gateway", "--port", str(port), "--rate", "0"],
        env={**os.environ, "MODELOPS_HOME": str(station.paths.root)},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, secret, process.pid
    finally:
        process.terminate()
        process.wait(30)


def server_of(station: Workstation, name: str) -> Target:
    """The llama.cpp server behind a deployment, past every front of ours."""
    job = station.serving.get(name).job_id
    (config,) = (station.paths.run_dir(job) / "steps").glob("*/work/server-*.json")
    value = json.loads(config.read_text())
    return Target("llama.cpp server", int(value["port"]), str(value["api_key"]))


def measure(station: Workstation, label: str, model: str, tokens: int, gate: Target) -> list[str]:
    """The table of one model."""
    view = station.serve(model, name="bench", threads=1, context=512, memory="600 MiB")
    front = Target("its front", int(urlsplit(view.url).port or 0), station.serving.key("bench"))
    targets = [server_of(station, "bench"), front, gate]
    pids = _pids(station, gate)
    _prefer([*pids.values(), os.getpid()])
    for target in targets:
        target.rates.clear()
        target.first.clear()
        stream(target, "bench", 8)
    for turn in range(FIRST_BYTES):
        for target in _turned(targets, turn):
            target.first.append(stream(target, "bench", 1).first_s)
    spent = {name: processor_seconds(pid) for name, pid in pids.items()}
    for turn in range(ROUNDS):
        for target in _turned(targets, turn):
            seen = stream(target, "bench", tokens)
            target.rates.append((seen.tokens - 1) / (seen.seconds - seen.first_s))
    spent = {name: processor_seconds(pid) - spent[name] for name, pid in pids.items()}
    lines = [
        f"\n{label}: {tokens} tokens a stream, {ROUNDS} rounds\n",
        "| place | tokens/s | of the server's own | first byte p50 | more | p10 |",
        "|---|---|---|---|---|---|",
    ]
    base = targets[0]
    for target in targets:
        share = statistics.median(a / b for a, b in zip(target.rates, base.rates, strict=True))
        more = statistics.median(a - b for a, b in zip(target.first, base.first, strict=True))
        lines.append(
            f"| {target.name} | {statistics.median(target.rates):.0f} | {share:.1%} | "
            f"{statistics.median(target.first) * 1000:.2f} ms | {more * 1000:+.2f} ms | "
            f"{(calm(target.first) - calm(base.first)) * 1000:+.2f} ms |"
        )
    through = ROUNDS * tokens
    lines.append(
        "\nprocessor time: "
        + ", ".join(
            f"{name} {seconds / (through * streams) * 1e6:.0f} µs a token"
            for (name, seconds), streams in zip(spent.items(), (3, 2, 1), strict=True)
        )
    )
    lines += at_once(gate, min(tokens, 24))
    station.serving.stop("bench", wait_s=60)
    station.serving.remove("bench")
    return lines


def calm(values: list[float]) -> float:
    """The tenth percentile: what it takes while nothing else wants the processor."""
    return statistics.quantiles(values, n=10)[0]


def _pids(station: Workstation, gate: Target) -> dict[str, int]:
    deadline = time.monotonic() + 30
    while (pid := station.serving.get("bench").pid) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return {"server": pid, "front": parent(pid), "gateway": int(gate.name.partition(" pid ")[2])}


def _prefer(pids: list[int]) -> None:
    """Raise the priority of the processes that are measured, where that is allowed.

    A hop through three processes waits for the scheduler three times on a busy machine, and that is
    not what is measured here. ``PREFER=0`` leaves them as they are, for a quiet machine.
    """
    for pid in pids if os.environ.get("PREFER", "1") == "1" else ():
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(PermissionError, ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread), -15)


def _turned(targets: list[Target], turn: int) -> list[Target]:
    turn %= len(targets)
    return targets[turn:] + targets[:turn]


def at_once(target: Target, tokens: int) -> list[str]:
    """``AT_ONCE`` streams at the same time: how many came whole."""
    seen: list[Streamed] = []

    def one() -> None:
        seen.append(stream(target, "bench", tokens))

    threads = [threading.Thread(target=one) for _ in range(AT_ONCE)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    whole = sum(s.whole and s.tokens == max(s.tokens for s in seen) for s in seen)
    return [f"\n{AT_ONCE} streams at once: {whole} whole and equally long, {seconds:.1f} s"]


def main() -> int:
    """Print the tables; 0 when every bar is met for the packaged model."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MODELOPS_HOME"] = folder
        os.environ["MODELOPS_SPACE_FLOOR_MIB"] = "1"
        from recipes.gguf.convert import convert
        from tests.support.tiny_model import build_tiny_model

        tiny = Path(folder) / "tiny.gguf"
        convert(build_tiny_model(Path(folder) / "tiny", 0), tiny)
        models = dict(zip(MODELS, (str(tiny), "smollm2"), strict=True))
        with Workstation(folder) as station:
            try:
                with gateway(station) as (port, secret, pid):
                    gate = Target(f"gateway, pid {pid}", port, secret)
                    for label, model in models.items():
                        lines = measure(station, label, model, MODELS[label], gate)
                        print("\n".join(lines), flush=True)
            finally:
                for view in station.serving.list():
                    try:
                        station.serving.stop(view.name, wait_s=60)
                    except Conflict:
                        continue
                station.system.stop_engine()
    return 0


if __name__ == "__main__":
    sys.exit(main())
